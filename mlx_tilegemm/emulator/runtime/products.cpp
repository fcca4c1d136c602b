// Matrix products. Each lane leaves its parts of the operands and goes on; the sums are computed
// for many products at once, as soon as all lanes have left their parts of them.
#include <algorithm>
#include <cstring>

#include "worker.h"

namespace msl_rt {

namespace {

// Element (row, column) of a lane, the first of its two, as an index into a row-major 8x8 matrix.
constexpr uint32_t first_element(uint32_t lane) {
  const uint32_t quad = lane / 4;
  const uint32_t row = (quad & 4) + (lane / 2) % 4;
  const uint32_t column = (quad & 2) * 2 + (lane % 2) * 2;
  return row * 8 + column;
}

float widen(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace

uint16_t round_to_bfloat(uint32_t bits) {
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

namespace {

uint16_t round_to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return msl_rt::round_to_bfloat(bits);
}

Pair load_pair(const void* source, ElementType type) {
  Pair pair;
  if (type == ElementType::float32) {
    std::memcpy(&pair, source, sizeof(pair));
  } else if (type == ElementType::float16) {
    const auto* halves = static_cast<const _Float16*>(source);
    pair = {static_cast<float>(halves[0]), static_cast<float>(halves[1])};
  } else {
    const auto* bits = static_cast<const uint16_t*>(source);
    pair = {widen(bits[0]), widen(bits[1])};
  }
  return pair;
}

void store_pair(void* target, ElementType type, Pair pair) {
  if (type == ElementType::float32) {
    std::memcpy(target, &pair, sizeof(pair));
  } else if (type == ElementType::float16) {
    auto* halves = static_cast<_Float16*>(target);
    halves[0] = static_cast<_Float16>(pair.x);
    halves[1] = static_cast<_Float16>(pair.y);
  } else {
    auto* bits = static_cast<uint16_t*>(target);
    bits[0] = round_to_bfloat(pair.x);
    bits[1] = round_to_bfloat(pair.y);
  }
}

void add_to_targets(const Product& product) {
  using Row = float __attribute__((vector_size(32)));
  alignas(64) float sum[64];
  for (uint32_t rest = product.lanes; rest; rest &= rest - 1) {
    const uint32_t lane = __builtin_ctz(rest);
    const Pair pair = load_pair(product.targets[lane], product.type);
    std::memcpy(sum + first_element(lane), &pair, sizeof(pair));
  }
  const Row* b = reinterpret_cast<const Row*>(product.b);
  for (int i = 0; i < 8; ++i) {
    Row row = reinterpret_cast<const Row*>(sum)[i];
    for (int k = 0; k < 8; ++k) row += product.a[i * 8 + k] * b[k];
    reinterpret_cast<Row*>(sum)[i] = row;
  }
  for (uint32_t rest = product.lanes; rest; rest &= rest - 1) {
    const uint32_t lane = __builtin_ctz(rest);
    Pair pair;
    std::memcpy(&pair, sum + first_element(lane), sizeof(pair));
    store_pair(product.targets[lane], product.type, pair);
  }
}

}  // namespace

// The compiler leaves the shadows of the operands where those of the call's parameters are.
void Worker::check_operands(const void* target, ElementType type, Place place) {
  constexpr uint32_t left = 2, right = 3;  // among the parameters
  const CallShadows& call = *call_shadows();
  const size_t bytes = type == ElementType::float32 ? 8 : 4;
  const uint32_t sum = find_unset(*this, target, bytes);
  if ((sum | call.parameters[left] | call.parameters[right]) == 0) return;
  if (sum) report_unset(this, 0, place, sum, "accumulator of a matrix product");
  for (const uint32_t operand : {left, right}) {
    if (call.parameters[operand] == 0) continue;
    const uint32_t origin = std::max(call.parameter_origins[2 * operand], unknown_origin);
    const char* side = operand == left ? "left operand of a matrix product"
                                       : "right operand of a matrix product";
    report_unset(this, 0, place, origin, side);
  }
  // The sum counts as set, whatever it was made of.
  mark_set(*this, target, bytes);
}

uint32_t Worker::add_product(void* target, ElementType type, Pair a, Pair b, Place place) {
  Fiber* self = current;
  Simdgroup* group = self->group;
  const uint32_t number = self->products;
  // `- kept` in modular arithmetic: the slot must be free again.
  if (number - group->products_done >= Simdgroup::kept_products) {
    settle_products(number - Simdgroup::kept_products + 1);
  }
  Product* product = &group->products[number % Simdgroup::kept_products];
  if (product->lanes == 0) {
    product->place = place;
    product->type = type;
    product->uniform = self->uniform;
  } else if (strict) {
    compare_product(*product, place);
  }
  self->uniform = 0;
  const uint32_t lane = self->lane;
  std::memcpy(product->a + first_element(lane), &a, sizeof(a));
  std::memcpy(product->b + first_element(lane), &b, sizeof(b));
  product->targets[lane] = target;
  product->lanes |= uint32_t(1) << lane;
  self->products = number + 1;
  return number + 1;
}

void Worker::compare_product(const Product& product, Place place) {
  if (product.place != place) {
    const bool earlier = product.place.line < place.line;
    report_divergence(
        earlier ? product.place : place, current,
        "lanes of the simdgroup are at different matrix operations");
  } else if (product.uniform != current->uniform) {
    report_divergence(
        current->uniform_place, current,
        "lanes gave simdgroup_load or simdgroup_store different operands");
  }
}

void Worker::settle_products(uint32_t ticket) {
  Fiber* self = current;
  Simdgroup* group = self->group;
  while (static_cast<int32_t>(ticket - group->products_done) > 0) {
    if (compute_products(group)) continue;
    self->place = group->products[(ticket - 1) % Simdgroup::kept_products].place;
    group->at_product |= uint32_t(1) << self->slot;
    wait();
  }
}

// Does the products that all living lanes have left their parts of, and wakes who waits for them.
bool Worker::compute_products(Simdgroup* group) {
  const uint32_t before = group->products_done;
  for (;;) {
    Product* product = &group->products[group->products_done % Simdgroup::kept_products];
    if (product->lanes == 0 || (group->alive_lanes & ~product->lanes) != 0) break;
    finish_product(group, product);
  }
  if (group->products_done == before) return false;
  group->runnable |= group->at_product;
  group->at_product = 0;
  return true;
}

void Worker::finish_product(Simdgroup* group, Product* product) {
  ++counters.multiply_accumulates;
  if (strict && product->lanes != ~uint32_t(0)) {
    const bool partial = threads_ - group->index * simd_width < simd_width;
    report_divergence(
        product->place, &group->fibers[group->cursor],
        partial ? "the simdgroup has fewer than 32 threads"
                : "other lanes of the simdgroup do not take part");
  }
  add_to_targets(*product);
  product->lanes = 0;
  ++group->products_done;
}

static bool needs_whole_simdgroup(const Simdgroup* group) {
  for (uint32_t rest = group->at_collective; rest; rest &= rest - 1) {
    const Fiber& fiber = group->fibers[__builtin_ctz(rest)];
    if (fiber.place.kind != Collective::simd_function) return true;
  }
  return false;
}

// No lane of the simdgroup can run on, and some wait for a product. True if they need not any more.
bool Worker::settle_group_products(Simdgroup* group) {
  if (compute_products(group)) return true;
  // Lanes that meet at a simd function without the others may take part afterwards.
  if (group->at_collective && !needs_whole_simdgroup(group)) return false;
  // The others will never take part.
  for (uint32_t slot = 0; slot < simd_width; ++slot) {
    Fiber* fiber = &group->fibers[slot];
    if (fiber->products == group->products_done) ++fiber->products;
  }
  finish_product(group, &group->products[group->products_done % Simdgroup::kept_products]);
  group->runnable |= group->at_product;
  group->at_product = 0;
  return true;
}

}  // namespace msl_rt
