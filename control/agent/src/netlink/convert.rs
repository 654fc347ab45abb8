//! Kernel messages to model types.
