// Metal's address-space and function words, and the attribute macros of Apple's headers.
#pragma once

#define device
#define constant
#define threadgroup
#define thread
#define kernel

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline __attribute__((always_inline))
#define METAL_CONST __attribute__((const))
#define METAL_PURE __attribute__((pure))
#define METAL_CONVERGENT
#define METAL_NOEXCEPT noexcept
