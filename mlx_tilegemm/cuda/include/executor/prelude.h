// Stands before the text of an MLX custom kernel.
#pragma once

#include <mlx_prelude.h>

#include "executor/entry.h"
#include "executor/move.h"
#include "executor/tile.h"

#undef MLX_MTL_PRAGMA_UNROLL
#define MLX_MTL_PRAGMA_UNROLL _Pragma("unroll")
