// Metal's library, and what MLX puts before a kernel, with bodies for clang's SPIR-V target. Calls
// of `nir_*` become the instructions of that name inside Mesa.
#pragma once

#include "agx/language.h"
#include "agx/traits.h"
#include "agx/vector.h"
#include "agx/math.h"
#include "agx/simd.h"
#include "agx/entry.h"
#include "agx/matrix.h"

using namespace metal;

#include "agx/mlx.h"
