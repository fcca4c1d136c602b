"""Kernels that use what was never set, and their clean twins; in the form of ``bugs.py``."""

from __future__ import annotations

from bugs import Case, text_of

HELPERS = """struct Pair {
  float a;
  float b;
};

struct Large {
  float at[13];
};

struct Nested {
  Pair pairs[2];
  half last;
};

struct Ray {
  float3 from;
  uchar tag;
};

struct Fields {
  uint low : 4;
  uint high : 4;
};

union Word {
  float f;
  uint u;
};

float only_large(float value) {
  float result;
  if (value > 50.0f) {
    result = value;
  }
  return result;
}

float handed_on(float value) {
  return value;
}

Pair half_a_pair(float value) {
  Pair pair;
  pair.a = value;
  return pair;
}

float4 half_a_vector(float value) {
  float4 v;
  v.xz = float2(value);
  return v;
}

void set_if_large(thread float& target, float value) {
  if (value > 50.0f) {
    target = value;
  }
}

void set_first(thread float* target, float value) {
  target[0] = value;
}

template <typename T>
T first_or(T value, T other, bool wanted) {
  return wanted ? value : other;
}

"""

_BODIES = {
    # Where a branch leaves a variable out.
    "left_out_by_data": """
float v;
if (x[i] > 50.0f) {
  v = x[i];
}
y[i] = v;  // finds: uninitialized
""",
    "left_out_by_data_clean": """
float v;
if (x[i] > 0.0f) {
  v = x[i];
}
y[i] = v;
""",
    "left_out_in_one_threadgroup": """
float v;
if (g != 2) {
  v = x[i];
}
y[i] = v;  // finds: uninitialized
""",
    "left_out_in_one_thread": """
float v;
if (i != 77) {
  v = x[i];
}
y[i] = v + 1.0f;  // finds: uninitialized
""",
    "left_out_by_a_switch": """
float v;
switch (i % 4) {
  case 0: v = 1.0f; break;
  case 1: v = x[i]; break;
  case 2: v = 3.0f; break;
}
y[i] = v;  // finds: uninitialized
""",
    "left_out_by_a_switch_clean": """
float v;
switch (i % 4) {
  case 0: v = 1.0f; break;
  case 1: v = x[i]; break;
  default: v = 3.0f; break;
}
y[i] = v;
""",
    "left_out_by_a_loop": """
float last;
for (uint k = 0; k < i % 3; ++k) {
  last = x[k];
}
y[i] = last;  // finds: uninitialized
""",
    "left_out_by_a_loop_clean": """
float last;
for (uint k = 0; k < i % 3 + 1; ++k) {
  last = x[k];
}
y[i] = last;
""",
    "set_in_the_turn_before": """
float sum = 0.0f;
for (uint k = 0; k < 3; ++k) {
  float term;
  if (k == 0) {
    term = x[i];
  }
  sum += term;
}
y[i] = sum;  // finds: uninitialized
""",
    "set_in_each_turn_clean": """
float sum = 0.0f;
for (uint k = 0; k < 3; ++k) {
  float term;
  if (k == 0) {
    term = x[i];
  } else {
    term = 2.0f;
  }
  sum += term;
}
y[i] = sum;
""",
    # Where only a decision depends on it.
    "maximum": """
float best;
for (uint k = 0; k < 4; ++k) {
  best = max(best, x[k]);
}
y[i] = best;  // finds: uninitialized
""",
    "maximum_clean": """
float best;
best = x[0];
for (uint k = 0; k < 4; ++k) {
  best = max(best, x[k]);
}
y[i] = best;
""",
    "minimum_of_integers": """
int best;
for (int k = 0; k < 4; ++k) {
  best = min(best, k);
}
y[i] = float(best);  // finds: uninitialized
""",
    "comparison": """
float v;
if (i < 16) {
  v = x[i];
}
y[i] = v > 3.0f ? 1.0f : 2.0f;  // finds: uninitialized
""",
    "equality": """
uint v;
if (i < 16) {
  v = i;
}
y[i] = v == 3 ? 1.0f : 2.0f;  // finds: uninitialized
""",
    "branch": """
float v;
if (x[0] > 100.0f) {
  v = 1.0f;
}
y[i] = 1.0f;
if (v > 0.5f) {  // finds: uninitialized
  y[i] = x[i];
}
""",
    "branch_clean": """
float v;
const bool wanted = x[i] > 50.0f;
if (wanted) {
  v = x[i];
}
y[i] = 1.0f;
if (wanted) {
  y[i] = v;
}
""",
    "short_circuit_clean": """
float v;
const bool wanted = x[i] > 50.0f;
if (wanted) {
  v = x[i];
}
y[i] = wanted && v > 60.0f ? 1.0f : 2.0f;
""",
    "ternary": """
bool wanted;
if (x[i] > 50.0f) {
  wanted = true;
}
y[i] = wanted ? x[i] : 2.0f;  // finds: uninitialized
""",
    "ternary_clean": """
float v;
const bool wanted = x[i] > 50.0f;
if (wanted) {
  v = x[i];
}
y[i] = wanted ? v : 2.0f;
""",
    "select_clean": """
float v;
const bool wanted = x[i] > 50.0f;
if (wanted) {
  v = x[i];
}
y[i] = select(2.0f, v, wanted);
""",
    "loop_bound": """
uint count;
if (x[i] > 50.0f) {
  count = 3;
}
float sum = 0.0f;
for (uint k = 0; k < count; ++k) {  // finds: uninitialized
  sum += x[k];
}
y[i] = sum;
""",
    "loop_start": """
uint k;
float sum = 0.0f;
for (; k < 3; ++k) {  // finds: uninitialized
  sum += x[k];  // finds: uninitialized
}
y[i] = sum;
""",
    "while_condition": """
bool more;
uint k = 0;
y[i] = 1.0f;
while (more) {  // finds: uninitialized
  y[i] += x[k];
  more = ++k < 3;
}
""",
    "switch_over_it": """
uint kind;
if (x[i] > 50.0f) {
  kind = 2;
}
switch (kind) {  // finds: uninitialized
  case 0: y[i] = 1.0f; break;
  case 2: y[i] = x[i]; break;
  default: y[i] = 3.0f; break;
}
""",
    # Addresses.
    "index_of_a_buffer": """
uint index;
if (x[i] < 10.0f) {
  index = 2;
}
y[i] = x[index % 8];  // finds: uninitialized
""",
    "index_of_an_output": """
uint index;
if (i != 3) {
  index = i;
}
y[i] = 1.0f;
threadgroup_barrier(mem_flags::mem_device);
if (i == 3) {
  y[index & 3] = 2.0f;  // finds: uninitialized
}
""",
    "index_of_an_array": """
float values[4] = {1.0f, 2.0f, 3.0f, 4.0f};
uint index;
if (x[i] < 10.0f) {
  index = 2;
}
y[i] = values[index & 3];  // finds: uninitialized
""",
    "index_of_threadgroup_memory": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
uint index;
if (lane < 30) {
  index = lane;
}
y[i] = tile[index & 31];  // finds: uninitialized
""",
    "offset_of_a_pointer": """
uint offset;
if (x[i] < 10.0f) {
  offset = 2;
}
device const float* p = x + (offset & 7);
y[i] = *p;  // finds: uninitialized
""",
    "offset_of_a_pointer_clean": """
uint offset;
if (x[i] < 10.0f) {
  offset = 2;
}
device const float* p = x + (offset & 7);
device const float* q = x[i] < 10.0f ? p : x;
y[i] = *q;
""",
    "pointer": """
device const float* p;
if (x[i] < 10.0f) {
  p = x;
}
y[i] = p[i];  // finds: uninitialized
""",
    "pointer_clean": """
device const float* p;
if (x[i] < 10.0f) {
  p = x;
} else {
  p = x + 1;
}
y[i] = p[0];
""",
    # Parts of vectors, arrays and structs.
    "part_of_a_vector": """
float4 v;
v.x = x[i];
v.zw = float2(1.0f);
y[i] = v.x + v.y;  // finds: uninitialized
""",
    "part_of_a_vector_clean": """
float4 v;
v.x = x[i];
v.zw = float2(1.0f);
const float4 copied = v;
y[i] = copied.x + copied.z + copied.w;
""",
    "sum_of_vectors": """
float4 v;
v.x = x[i];
const float4 sum = v + float4(1.0f);
y[i] = sum.w;  // finds: uninitialized
""",
    "sum_of_vectors_clean": """
float4 v;
v.x = x[i];
const float4 sum = v + float4(1.0f);
y[i] = sum.x;
""",
    "component_by_index": """
float4 v;
for (int k = 0; k < 3; ++k) {
  v[k] = x[i];
}
y[i] = v[i % 4];  // finds: uninitialized
""",
    "component_by_index_clean": """
float4 v;
for (int k = 0; k < 3; ++k) {
  v[k] = x[i];
}
y[i] = v[i % 3];
""",
    "part_of_a_packed_vector": """
packed_float3 v;
v.x = x[i];
v.y = 1.0f;
y[i] = v.z;  // finds: uninitialized
""",
    "part_of_a_small_vector": """
uchar4 v;
v.xyz = uchar3(1, 2, 3);
y[i] = float(v.w);  // finds: uninitialized
""",
    "part_of_a_small_vector_clean": """
uchar3 v;
v.x = 1;
v.y = 2;
v.z = 3;
const uchar3 copied = v;
y[i] = float(copied.x + copied.y + copied.z);
""",
    "any_of_a_vector": """
bool4 v;
v.xyz = bool3(false);
y[i] = any(v) ? 1.0f : 2.0f;  // finds: uninitialized
""",
    "dot_product": """
half3 v;
v.x = half(x[i]);
v.y = 1.0h;
y[i] = float(dot(v, half3(1.0h)));  // finds: uninitialized
""",
    "part_of_an_array": """
float values[4];
for (uint k = 0; k < 3; ++k) {
  values[k] = x[i] * float(k);
}
float sum = 0.0f;
for (uint k = 0; k < 4; ++k) {
  sum += values[k];
}
y[i] = sum;  // finds: uninitialized
""",
    "part_of_an_array_clean": """
float values[4];
for (uint k = 0; k < 3; ++k) {
  values[k] = x[i] * float(k);
}
y[i] = values[i % 3];
""",
    "part_of_rows": """
half rows[3][5];
for (uint r = 0; r < 3; ++r) {
  for (uint c = 0; c < 5 - (r == 2); ++c) {
    rows[r][c] = half(x[i]);
  }
}
y[i] = float(rows[i % 3][(i / 3) % 5]);  // finds: uninitialized
""",
    "part_of_a_metal_array": """
array<float, 4> values;
values[0] = x[i];
y[i] = values[i & 1];  // finds: uninitialized
""",
    "part_of_a_struct": """
Pair pair;
pair.a = x[i];
y[i] = pair.b;  // finds: uninitialized
""",
    "part_of_a_struct_clean": """
Pair pair;
pair.a = x[i];
Pair copied = pair;
y[i] = copied.a;
""",
    "part_of_a_nested_struct": """
Nested nested;
nested.pairs[0].a = nested.pairs[0].b = nested.pairs[1].b = x[i];
nested.last = 1.0h;
const Nested copied = nested;
y[i] = copied.pairs[i & 1].a;  // finds: uninitialized
""",
    "part_of_a_nested_struct_clean": """
Nested nested;
nested.pairs[0].a = nested.pairs[0].b = nested.pairs[1].b = x[i];
const Nested copied = nested;
y[i] = copied.pairs[i & 1].b;
""",
    "part_of_a_large_struct": """
Large large, copied;
for (uint k = 0; k < 12; ++k) {
  large.at[k] = x[k];
}
copied = large;
y[i] = copied.at[i % 13];  // finds: uninitialized
""",
    "part_of_a_large_struct_clean": """
Large large, copied;
for (uint k = 0; k < 12; ++k) {
  large.at[k] = x[k];
}
copied = large;
y[i] = copied.at[i % 12];
""",
    "zeroed_later_clean": """
Large large;
large.at[i % 13] = x[i];
if (x[i] > 0.0f) {
  large = {};
}
y[i] = large.at[(i + 1) % 13];
""",
    "holes_on_a_used_stack_clean": """
threadgroup Ray rays[64];
float sum = 0.0f;
for (uint turn = 0; turn < 2; ++turn) {
  if (turn == 0) {
    Large large;
    for (uint k = 0; k < 12; ++k) {
      large.at[(k + i) % 12] = x[k];
    }
    sum += large.at[i % 12];
  } else {
    Ray both[2];
    for (uint k = 0; k < 2; ++k) {
      both[(k + i) & 1].from = float3(x[i]);
      both[(k + i) & 1].tag = 1;
    }
    rays[t] = both[i & 1];
    const thread uchar* bytes = reinterpret_cast<const thread uchar*>(&both[i & 1]);
    for (uint k = 17; k < 20; ++k) {
      sum += bytes[k] > 255 ? 1.0f : 0.0f;
    }
  }
}
y[i] = sum + float(rays[t].tag);
""",
    "part_of_a_padded_struct": """
Ray ray;
ray.from = float3(x[i]);
const Ray copied = ray;
y[i] = copied.from.y + float(copied.tag);  // finds: uninitialized
""",
    "part_of_a_padded_struct_clean": """
threadgroup Ray rays[64];
Ray ray;
ray.from = float3(x[i]);
ray.tag = 3;
rays[t] = ray;
const Ray copied = rays[t];
y[i] = copied.from.y + float(copied.tag);
""",
    "bit_fields_clean": """
Fields fields;
fields.low = i & 15;
fields.high = 2;
y[i] = float(fields.low + fields.high);
""",
    "bit_field": """
Fields fields;
fields.low = i & 15;
y[i] = float(fields.low + fields.high);  // finds: uninitialized
""",
    "word_clean": """
Word word;
word.f = x[i];
y[i] = float(word.u >> 23);
""",
    "word": """
Word word;
y[i] = float(word.u >> 23);  // finds: uninitialized
""",
    "column_of_a_matrix": """
float3x3 m;
m[0] = float3(x[i]);
m[2] = float3(1.0f);
y[i] = (m * float3(1.0f)).x;  // finds: uninitialized
""",
    "column_of_a_matrix_clean": """
float3x3 m;
m[0] = float3(x[i]);
m[2] = float3(1.0f);
const float3x3 copied = m;
y[i] = copied[0].x + copied[2].z;
""",
    # Every type.
    "half_type": """
half v;
if (i > 3) {
  v = half(x[i]);
}
y[i] = float(v);  // finds: uninitialized
""",
    "bfloat_type": """
bfloat v;
if (i > 3) {
  v = bfloat(x[i]);
}
y[i] = float(v);  // finds: uninitialized
""",
    "long_integer": """
ulong v;
if (i > 3) {
  v = i;
}
y[i] = float(v >> 40);  // finds: uninitialized
""",
    "byte_type": """
char v;
if (i > 3) {
  v = 3;
}
y[i] = float(v);  // finds: uninitialized
""",
    "volatile_type": """
volatile float v;
if (i > 3) {
  v = x[i];
}
y[i] = v;  // finds: uninitialized
""",
    "volatile_type_clean": """
volatile float v;
v = x[i];
y[i] = v;
""",
    "bits_of_a_word_clean": """
uint flags;
flags = (flags & ~3u) | (i & 3u);
y[i] = flags & 2u ? x[i] : 1.0f;
""",
    "bits_of_a_word": """
uint flags;
flags = (flags & ~3u) | (i & 3u);
y[i] = flags & 6u ? x[i] : 1.0f;  // finds: uninitialized
""",
    "other_type": """
float v;
if (i > 3) {
  v = x[i];
}
y[i] = float(as_type<uint>(v) & 1u);  // finds: uninitialized
""",
    "bfloat_to_half": """
bfloat v;
if (i > 3) {
  v = bfloat(x[i]);
}
const half narrow = half(2.0f * float(v));
y[i] = float(narrow);  // finds: uninitialized
""",
    "half_to_bfloat": """
half v;
if (i > 3) {
  v = half(x[i]);
}
const bfloat narrow = bfloat(2.0f * float(v));
y[i] = float(narrow);  // finds: uninitialized
""",
    "byte_to_bfloat": """
uchar v;
if (i > 3) {
  v = uchar(i);
}
const bfloat narrow = bfloat(float(v));
y[i] = float(narrow);  // finds: uninitialized
""",
    "bfloat_to_integer": """
bfloat v;
if (i > 3) {
  v = bfloat(1.0f);
}
const uchar narrow = uchar(float(v));
y[i] = float(narrow);  // finds: uninitialized
""",
    "conversions_clean": """
float v;
if (i > 3) {
  v = 3.0f;
}
const half a = half(v);
const bfloat b = bfloat(v), c = bfloat(float(a));
const uchar d = uchar(float(b));
y[i] = i > 3 ? float(a) + float(c) + float(d) : 1.0f;
""",
    "not_a_number": """
half v;
if (i > 3) {
  v = 1.0h;
}
y[i] = isnan(float(v)) ? 1.0f : 2.0f;  // finds: uninitialized
""",
    "high_half_of_a_product": """
uint v;
if (i > 3) {
  v = i;
}
y[i] = float(mulhi(v, 77777777u));  // finds: uninitialized
""",
    # Functions.
    "returned": """
y[i] = only_large(x[i]);  // finds: uninitialized
""",
    "returned_clean": """
const float v = only_large(x[i]);
y[i] = x[i] > 50.0f ? v : only_large(60.0f);
""",
    "returned_struct": """
y[i] = half_a_pair(x[i]).a + half_a_pair(1.0f).b;  // finds: uninitialized
""",
    "returned_struct_clean": """
y[i] = half_a_pair(x[i]).a + half_a_pair(1.0f).a;
""",
    "returned_vector": """
y[i] = half_a_vector(x[i]).y;  // finds: uninitialized
""",
    "returned_vector_clean": """
y[i] = half_a_vector(x[i]).z;
""",
    "by_reference": """
float v;
set_if_large(v, x[i]);
y[i] = v;  // finds: uninitialized
""",
    "by_reference_clean": """
float v;
set_if_large(v, x[i] + 100.0f);
y[i] = v;
""",
    "by_pointer": """
float v[2];
set_first(v, x[i]);
y[i] = v[0] + v[1];  // finds: uninitialized
""",
    "by_pointer_clean": """
float v[2];
set_first(v, x[i]);
set_first(v + 1, 1.0f);
y[i] = v[0] + v[1];
""",
    "handed_on_clean": """
float v;
if (i > 3) {
  v = x[i];
}
const float w = handed_on(v);
float copied = w;
y[i] = first_or(copied, 1.0f, i > 3) + first_or(2.0f, v, true);
""",
    "handed_on": """
float v;
if (i > 3) {
  v = x[i];
}
y[i] = handed_on(v);  // finds: uninitialized
""",
    "never_used_clean": """
float v;
float w = v;
float values[3];
float others[3];
for (uint k = 0; k < 3; ++k) {
  others[k] = values[k];
}
w += others[1];
y[i] = x[i];
""",
    # Arithmetic.
    "accumulator": """
float sum;
for (uint k = 0; k < 4; ++k) {
  sum += x[k];
}
y[i] = sum;  // finds: uninitialized
""",
    "accumulator_clean": """
float sum;
for (uint k = 0; k < 4; ++k) {
  sum = k == 0 ? x[k] : sum + x[k];
}
y[i] = sum;
""",
    "times_zero": """
float v;
y[i] = v * 0.0f + x[i];  // finds: uninitialized
""",
    "integer_arithmetic": """
int v;
if (i > 3) {
  v = 1;
}
v = 3 * v + 1;
v -= 2;
++v;
y[i] = float(-v);  // finds: uninitialized
""",
    "integer_arithmetic_clean": """
int v;
if (i > 3) {
  v = 1;
}
v = 3 * v + 1;
v -= 2;
++v;
v = -v;
int shifted = (v & 7) << 2;
y[i] = i > 3 ? float(v) / 2.0f + float(shifted / 2) : 0.0f;
""",
    "divisor": """
uint n;
if (i > 3) {
  n = 2;
}
y[i] = float(i / (n | 1u));  // finds: uninitialized
""",
    "math_functions": """
float v;
if (i > 3) {
  v = 0.5f;
}
float s = exp(v);
switch (i) {
  case 0: s = acos(v); break;
  case 1: s = pow(2.0f, v); break;
  case 2: s = nextafter(v, 1.0f); break;
  case 3: s = ldexp(v, 1); break;
}
y[i] = s;  // finds: uninitialized
""",
    "exponent": """
float v;
int exponent;
if (i > 3) {
  v = 0.5f;
}
y[i] = 1.0f;
const float fraction = frexp(v, exponent);
y[i] = float(exponent) + (i > 3 ? fraction : 0.0f);  // finds: uninitialized
""",
    "results_by_reference_clean": """
int exponent;
float cosine, whole;
float3 wholes;
const float fraction = frexp(x[i], exponent);
const float sine = sincos(x[i], cosine);
const float rest = modf(x[i], whole) + modf(float3(x[i]), wholes).x;
y[i] = fraction + float(exponent) + sine + cosine + rest + whole + wholes.z;
""",
    "math_functions_clean": """
const float v = 1.0f / x[i];
float s = acos(v) + asin(v) + atan(v) + atan2(v, 2.0f) + cosh(v) + sinh(v) + tan(v) + tanh(v);
s += exp(v) + exp2(v) + exp10(v) + log(v) + log2(v) + log10(v) + pow(v, 2.0f) + fmod(v, 0.3f);
s += float(ilogb(v)) + ldexp(v, 2) + nextafter(v, 1.0f) + sinpi(v) + cospi(v) + tanpi(v);
y[i] = s + asinh(v) + acosh(1.0f + v) + atanh(0.5f * v) + float(sin(half(v)));
""",
    # Threadgroup memory hands values on.
    "through_threadgroup_memory": """
threadgroup float tile[64];
float v;
if (t < 60) {
  v = x[i];
}
tile[t] = v;
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[63 - t];  // finds: uninitialized
""",
    "through_threadgroup_memory_clean": """
threadgroup float tile[64];
float v;
if (t < 60) {
  v = x[i];
}
tile[t] = v;
threadgroup_barrier(mem_flags::mem_threadgroup);
const float other = tile[63 - t];
y[i] = 63 - t < 60 ? other : 0.0f;
""",
    "left_by_the_threadgroup_before": """
threadgroup float tile[64];
float v;
if (g % 2 == 0) {
  tile[t] = v;
  y[i] = 1.0f;
  return;
}
const float w = tile[t];  // finds: uninitialized
y[i] = w;
""",
    # Simd functions.
    "shuffled": """
float v;
if (lane < 16) {
  v = x[i];
}
y[i] = simd_shuffle_xor(v, 16);  // finds: uninitialized
""",
    "shuffle_clean": """
float v;
if (lane < 16) {
  v = x[i];
}
const float other = simd_shuffle_xor(v, 16);
y[i] = lane < 16 ? v : other;
""",
    "shuffle_of_vectors": """
float4 v;
v.xy = float2(x[i]);
const float4 other = simd_shuffle_down(v, 1);
y[i] = other.x + other.z;  // finds: uninitialized
""",
    "shuffle_of_vectors_clean": """
float4 v;
v.xy = float2(x[i]);
const float4 other = simd_shuffle_down(v, 1);
y[i] = other.x + other.y;
""",
    "tree_clean": """
float v;
if (lane < 20) {
  v = x[i];
}
for (ushort step = 16; step > 0; step /= 2) {
  const float other = simd_shuffle_down(v, step);
  if (lane + step < 20) {
    v += other;
  }
}
y[i] = lane == 0 ? v : x[i];
""",
    "lane_of_a_shuffle": """
ushort from;
if (lane < 16) {
  from = lane;
}
y[i] = simd_shuffle(x[i], from & 15);  // finds: uninitialized
""",
    "lane_that_is_not_active": """
float v = x[i];
if (lane < 16) {
  v = simd_shuffle(v, 20);
}
y[i] = v;  // finds: uninitialized
""",
    "lane_that_is_not_active_clean": """
float v = x[i];
if (lane < 16) {
  const float other = simd_shuffle(v, lane + 1);
  v = lane < 15 ? other : 0.0f;
}
y[i] = v;
""",
    "beyond_the_last_lane_clean": """
y[i] = simd_shuffle_down(x[i], 1) + simd_shuffle_up(x[i], 2) + quad_shuffle_down(x[i], 1);
""",
    "reduction": """
float v;
if (lane < 31) {
  v = x[i];
}
y[i] = simd_sum(v);  // finds: uninitialized
""",
    "reduction_clean": """
float v, sum = 0.0f;
if (lane < 31) {
  v = x[i];
  sum = simd_max(v) + simd_sum(v) + simd_prefix_inclusive_sum(v) + quad_sum(1.0f);
}
y[i] = sum + simd_sum(lane < 31 ? v : 0.0f);
""",
    "reduction_of_another_quad_clean": """
float v;
if (lane < 28) {
  v = x[i];
}
const float sum = quad_sum(v);
y[i] = lane < 28 ? sum : 0.0f;
""",
    "scan": """
float v;
if (lane != 5) {
  v = x[i];
}
const float before = simd_prefix_exclusive_sum(v);
y[i] = lane < 7 ? before : 0.0f;  // finds: uninitialized
""",
    "scan_clean": """
float v;
if (lane != 5) {
  v = x[i];
}
const float before = simd_prefix_exclusive_sum(v);
y[i] = lane < 6 ? before : 0.0f;
""",
    "vote": """
bool wanted;
if (lane < 31) {
  wanted = false;
}
y[i] = simd_any(wanted) ? 1.0f : 2.0f;  // finds: uninitialized
""",
    "vote_clean": """
bool wanted;
if (lane < 31) {
  wanted = true;
}
y[i] = simd_any(wanted) ? 1.0f : 2.0f;
""",
    "ballot_clean": """
bool wanted;
if (lane < 31) {
  wanted = lane % 2 == 0;
}
const uint votes = uint(simd_vote::vote_t(simd_ballot(wanted)));
y[i] = float(popcount(votes & 0xffffu));
""",
    "broadcast": """
float v;
if (lane != 0) {
  v = x[i];
}
y[i] = simd_broadcast_first(v);  // finds: uninitialized
""",
    "broadcast_clean": """
float v;
if (lane == 3) {
  v = x[i];
}
y[i] = simd_broadcast(v, 3);
""",
    # Matrices of simdgroups.
    "part_of_a_fragment": """
simdgroup_float8x8 m;
m.thread_elements()[0] = x[i];
simdgroup_multiply(m, m, m);  // finds: uninitialized
y[i] = m.thread_elements()[0];
""",
    "fragments_of_some_lanes": """
simdgroup_half8x8 a;
if (lane < 31) {
  a.thread_elements() = half2(1.0h);
}
simdgroup_float8x8 sum(0.0f);
simdgroup_multiply_accumulate(sum, a, a, sum);  // finds: uninitialized
y[i] = sum.thread_elements()[0];
""",
    "fragments_clean": """
simdgroup_half8x8 a;
a.thread_elements()[0] = 1.0h;
a.thread_elements()[1] = half(x[i]);
simdgroup_float8x8 sum, copied;
simdgroup_multiply(sum, a, a);
copied = sum;
y[i] = copied.thread_elements()[0];
""",
    "accumulating_fragment": """
simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_float8x8 sum;
for (int k = 0; k < 3; ++k) {
  simdgroup_multiply_accumulate(sum, a, a, sum);  // finds: uninitialized
}
y[i] = sum.thread_elements()[1];
""",
    "element_of_a_fragment": """
simdgroup_float8x8 m;
if (lane < 31) {
  m.thread_elements() = float2(x[i]);
}
y[i] = m.thread_elements()[1];  // finds: uninitialized
""",
    "element_of_a_fragment_clean": """
simdgroup_float8x8 m;
if (lane < 31) {
  m.thread_elements() = float2(x[i]);
}
const float2 elements = m.thread_elements();
y[i] = lane < 31 ? elements[1] : 0.0f;
""",
    "stored_fragment": """
simdgroup_float8x8 m;
m.thread_elements()[0] = x[i];
y[i] = 0.0f;
threadgroup_barrier(mem_flags::mem_device);
if (simdgroup == 0) {
  simdgroup_store(m, y + 64 * g, 8);  // finds: uninitialized
}
""",
    "loops_over_fragments_clean": """
simdgroup_float8x8 rows[4];
for (int d = 0; d < 4; ++d) {
  rows[d].thread_elements() = float2(x[i]);
}
simdgroup_float8x8 result[2];
for (int d = 0; d < 2; ++d) {
  result[d] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
}
for (int key = 0; key < int(x[0]) + 2; ++key) {
  simdgroup_float8x8 scores[2];
  for (int d = 0; d < 4; ++d) {
    for (int j = 0; j < 2; ++j) {
      if (d == 0) {
        simdgroup_multiply(scores[j], rows[d], rows[j]);
      } else {
        simdgroup_multiply_accumulate(scores[j], rows[d], rows[j], scores[j]);
      }
    }
  }
  for (int j = 0; j < 2; ++j) {
    simdgroup_multiply_accumulate(result[j], scores[j], rows[j + 1], result[j]);
  }
}
y[i] = result[i & 1].thread_elements()[0];
""",
    "array_of_fragments": """
simdgroup_float8x8 m[2][2];
for (int k = 0; k < 3; ++k) {
  m[k / 2][k % 2].thread_elements() = float2(x[i]);
}
y[i] = m[i / 2 % 2][i % 2].thread_elements()[0];  // finds: uninitialized
""",
}

CASES = tuple(Case(name=name, body=body.strip("\n")) for name, body in _BODIES.items())


def full_text() -> str:
    """One Metal text with the kernels of all cases."""
    head = "#include <metal_stdlib>\nusing namespace metal;\n\n" + HELPERS
    return head + "\n".join(text_of(case) for case in CASES)
