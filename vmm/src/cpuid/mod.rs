//! cpuid
