// Stands before the text of an MLX custom kernel.
#pragma once

#include <mlx_prelude.h>

#include "entry.h"
