"""A GPU for tests where there is none: it runs the PTX that a GPU would be given (see `machine.h`)."""
