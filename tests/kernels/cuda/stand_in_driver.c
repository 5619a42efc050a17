/* Stands for libcuda.so.1 in tests without a GPU: as strict as the driver where a launch could go wrong,
   and keeps what it was given by the last one. */

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
enum { MAX_DYNAMIC_SHARED = 8 };                                /* CUfunction_attribute */
enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76 };          /* CUdevice_attribute */
enum { BUFFER_POINTER = 1, BUFFER_SIZE = 2, FUNCTIONS = 64 };

__thread int context_is_current;
int result_of_launches = OK;   /* of all that would succeed */
int modules, functions, attributes_set, launches;
int pause_of_launches;         /* microseconds until a launch looks at its parameters */
long long first_parameters;    /* the sum over all launches */
const char *images[FUNCTIONS]; /* there as long as they are being loaded */
int shared_allowed[FUNCTIONS];

struct { unsigned grid[3], block[3], shared; void *function, *stream; size_t size; char parameters[32764]; } last;

void make_context_current(void) { context_is_current = 1; }

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }

int cuDriverGetVersion(int *version) { *version = 12000; return OK; }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (device) return INVALID_VALUE;
    *value = attribute == MULTIPROCESSORS ? 132 : attribute == MAJOR ? 9 : 0;
    return OK;
}

int cuDeviceGetName(char *name, int size, int device)
{
    if (device || size < 12) return INVALID_VALUE;
    strcpy(name, "NVIDIA H200");
    return OK;
}

int cuModuleLoadData(void **module, const char *image)
{
    if (!context_is_current) return INVALID_CONTEXT;
    if (memcmp(image, ELFMAG, SELFMAG)) return INVALID_IMAGE;
    images[++modules] = image;
    *module = (void *)(size_t)modules;
    return OK;
}

static int contains(const char *image, const char *name)
{
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *section = (const Elf64_Shdr *)(image + head->e_shoff);
    for (int i = 0; i < head->e_shnum; i++)
        if (section[i].sh_type == SHT_SYMTAB) {
            const char *names = image + section[section[i].sh_link].sh_offset;
            const Elf64_Sym *symbol = (const Elf64_Sym *)(image + section[i].sh_offset);
            for (size_t s = 0; s < section[i].sh_size / sizeof *symbol; s++)
                if (ELF64_ST_TYPE(symbol[s].st_info) == STT_FUNC && !strcmp(names + symbol[s].st_name, name))
                    return 1;
        }
    return 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    if (!contains(images[(size_t)module], name)) return NOT_FOUND;
    shared_allowed[++functions] = 48 * 1024;
    *function = (void *)(size_t)functions;
    return OK;
}

int cuFuncSetAttribute(void *function, int attribute, int value)
{
    if (attribute != MAX_DYNAMIC_SHARED || value > 227 * 1024) return INVALID_VALUE;
    shared_allowed[(size_t)function] = value;
    attributes_set++;
    return OK;
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra)
{
    if (!context_is_current) return INVALID_CONTEXT;
    if (parameters || shared > (unsigned)shared_allowed[(size_t)function]) return INVALID_VALUE;
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535) return INVALID_VALUE;
    if (result_of_launches) return result_of_launches;
    launches++;
    last.grid[0] = gx, last.grid[1] = gy, last.grid[2] = gz;
    last.block[0] = bx, last.block[1] = by, last.block[2] = bz;
    last.shared = shared, last.function = function, last.stream = stream;
    const void *start = NULL;
    last.size = 0;
    for (; *extra; extra += 2)
        if ((size_t)extra[0] == BUFFER_POINTER) start = extra[1];
        else if ((size_t)extra[0] == BUFFER_SIZE) last.size = *(size_t *)extra[1];
        else return INVALID_VALUE;
    if (!start) return INVALID_VALUE;
    if (pause_of_launches) usleep(pause_of_launches);
    if (last.size >= 8) __atomic_fetch_add(&first_parameters, *(const long long *)start, __ATOMIC_SEQ_CST);
    memcpy(last.parameters, start, last.size);
    return OK;
}

int cuGetErrorName(int error, const char **name)
{
    static char names[1000][32];
    sprintf(names[error], "CUDA_ERROR_OF_NUMBER_%d", error);
    *name = names[error];
    return OK;
}

int cuGetErrorString(int error, const char **words)
{
    *words = error == 700 ? "an illegal memory access was encountered" : "invalid argument";
    return OK;
}

/* All others do not exist. */
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, int *status)
{
    (void)version, (void)flags;
    *address = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);
    if (status) *status = !*address;
    return *address ? OK : NOT_FOUND;
}
