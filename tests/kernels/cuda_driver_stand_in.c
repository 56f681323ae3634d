// Stands in for libcuda.so.1 where there is no card: it computes nothing and writes down what it is asked to launch.
// Both ways lead here, Triton's own launcher and the native library's. Built by test_plans.py, read by
// plans_on_stand_in.py.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { most_launches = 512, most_parameters = 256, most_bytes = 4096 };

typedef struct {
  const void* image;  // a copy of the cubin
  size_t image_size;
  int allowed_bytes;  // dynamic shared memory, 48 KiB unless asked for more
  int num_parameters, offsets[most_parameters], sizes[most_parameters];
} Function;

typedef struct {
  const Function* function;
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  size_t num_bytes;
  unsigned char bytes[most_bytes];
} Launch;

// (cubin, its size, kernel, offsets, sizes) -> number of parameters; the test reads them from the cubin.
int (*stand_in_layout)(const void*, size_t, const char*, int*, int*);
int stand_in_count;
Launch stand_in_launches[most_launches];

static void* current;

int cuGetErrorString(int error, const char** text) { return *text = "the stand-in refuses", 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return *value = 232448, 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &current, 0; }
int cuCtxGetCurrent(void** context) { return *context = current, 0; }
int cuCtxSetCurrent(void* context) { return current = context, 0; }
int cuCtxPushCurrent_v2(void* context) { return context == &current ? 0 : 1; }
int cuCtxPopCurrent_v2(void** context) { return *context = &current, 0; }
int cuCtxGetLimit(size_t* value, int limit) { return *value = 0, 0; }
int cuCtxSetLimit(int limit, size_t value) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuPointerGetAttribute(void* value, int attribute, uint64_t pointer) { return *(uint64_t*)value = pointer, 0; }

int cuModuleLoadData(void** module, const void* image) {  // its size is where the ELF file's section headers end
  const unsigned char* bytes = image;
  uint64_t sections;
  uint16_t size, count;
  memcpy(&sections, bytes + 0x28, 8), memcpy(&size, bytes + 0x3A, 2), memcpy(&count, bytes + 0x3C, 2);
  Function* function = calloc(1, sizeof(Function));
  function->image_size = sections + (size_t)size * count;
  function->image = memcpy(malloc(function->image_size), image, function->image_size);
  function->allowed_bytes = 48 * 1024;
  return *module = function, 0;
}
int cuModuleGetFunction(void** found, void* module, const char* name) {
  Function* function = module;
  function->num_parameters =
      stand_in_layout(function->image, function->image_size, name, function->offsets, function->sizes);
  return *found = function, 0;
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {  // attribute 0: the most threads a block
  return *value = attribute == 0 ? 1024 : 0, 0;
}
int cuFuncSetCacheConfig(void* function, int config) { return 0; }
int cuFuncSetAttribute(void* function, int attribute, int value) {
  return ((Function*)function)->allowed_bytes = value, 0;
}

static Launch* next(const Function* function, const unsigned* grid, const unsigned* block, unsigned shared_bytes,
                    void* stream) {
  if (stand_in_count == most_launches || shared_bytes > (unsigned)function->allowed_bytes) return NULL;
  Launch* launch = &stand_in_launches[stand_in_count++];
  memset(launch, 0, sizeof(*launch));
  launch->function = function, launch->shared_bytes = shared_bytes, launch->stream = stream;
  memcpy(launch->grid, grid, sizeof(launch->grid)), memcpy(launch->block, block, sizeof(launch->block));
  return launch;
}

// As the native library launches: one buffer holds the arguments.
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void* stream, void** parameters, void** extra) {
  Launch* launch = next(function, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared_bytes, stream);
  if (!launch || parameters || extra[0] != (void*)1 || extra[2] != (void*)2 || extra[4]) return 1;
  launch->num_bytes = *(size_t*)extra[3];
  memcpy(launch->bytes, extra[1], launch->num_bytes);
  return 0;
}

// As Triton launches: a pointer to each argument. CUlaunchConfig begins with grid, block, bytes and stream.
typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned num_attributes;
} Config;

int cuLaunchKernelEx(const Config* config, void* called, void** parameters, void** extra) {
  const Function* function = called;
  Launch* launch = next(function, config->grid, config->block, config->shared_bytes, config->stream);
  if (!launch || extra || config->num_attributes) return 1;
  for (int i = 0; i < function->num_parameters; ++i) {
    memcpy(launch->bytes + function->offsets[i], parameters[i], function->sizes[i]);
    launch->num_bytes = function->offsets[i] + function->sizes[i];
  }
  return 0;
}

// Triton looks these up and does not call them.
int cuOccupancyMaxActiveClusters(int* count, void* function, const void* config) { return 1; }
int cuTensorMapEncodeTiled(void) { return 1; }
int cuTensorMapEncodeIm2col(void) { return 1; }
