// The prelude has all of this.
#pragma once
#include <mlx_prelude.h>
