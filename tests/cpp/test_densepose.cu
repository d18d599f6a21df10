// The test for nvcc: the CUDA kernels run on a GPU.
#include "test_densepose.cpp"
