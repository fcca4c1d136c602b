// half, as the compiler has it. Included by msl/types.h.
#pragma once

typedef _Float16 half;
