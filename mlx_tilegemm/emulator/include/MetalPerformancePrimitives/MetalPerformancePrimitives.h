#error MetalPerformancePrimitives (tensor operations) is not supported by the emulator
