"""The GPUs of a machine: what they are, and the bytes that torch holds on one."""
