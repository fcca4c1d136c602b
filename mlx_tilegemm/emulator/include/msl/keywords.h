// Metal's address-space and function words, and the attribute macros of Apple's headers.
#pragma once

// The driver's preprocessing pass keeps the words, for it still has to read them.
#if !defined(MSL_KEEP_KEYWORDS)
#define device
#define constant
#define threadgroup
#define thread
#define kernel
#define double ::metal::_impl::double_is_not_in_metal
#endif

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline __attribute__((always_inline))
#define METAL_CONST __attribute__((const))
#define METAL_PURE __attribute__((pure))
#define METAL_CONVERGENT
#define METAL_NOEXCEPT noexcept
