// Stands before the text of a plain Metal file.
#pragma once

#include <metal_stdlib>

#include "executor/entry.h"
