/* Numpy arrays in segments: shared memory of this worker that other processes can read.

A large array that a stage's function makes lies in a memfd of its own, a block. When the function has returned it, and nobody
in this process can reach it any more, the block is lent to the coordinator as it is, without a copy. When the last view of it is
gone in every process, it becomes the memory of another array.

Whether somebody can still reach an array is not guessed: numpy frees the memory of an array when its last reference (of a view,
a buffer, a list) ends. `pin` keeps a block from being used again when that happens; `lend` tells whether it has happened.

A fork copies memory, and what is shared is not copied: the child's arrays are copied before the fork, and put in their places in the child.
In the parent nothing changes, as other threads may be writing to its arrays all the while.

All functions may be called by any thread. Loaded by `millpond/allocator.py`. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Each block is a descriptor, also in the coordinator. */
#define BLOCKS 64
#define PAGE 4096
#define MIB ((size_t)1 << 20)
/* Smaller arrays are copied sooner than shared. */
#define SMALLEST (1 * MIB)
/* Blocks are allocated whole, and an array of that size may be meant to stay mostly untouched. */
#define LARGEST (256 * MIB)
/* Bytes of blocks that are not lent; arrays beyond them are as numpy makes them. One block is always let in. */
#define MOST (128 * MIB)

/* As in numpy's `ndarraytypes.h`. */
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *memory, size_t size);
    void (*free)(void *ctx, void *memory, size_t size);
} Functions;

typedef struct {
    char name[127];
    uint8_t version;
    Functions functions;
} Handler;

enum State {
    NONE,
    FREE,    /* nobody has it */
    LIVE,    /* an array has it */
    LENT,    /* the coordinator has it */
    PRIVATE, /* an array has it, and it is not shared: this process was forked by user code */
};

typedef struct {
    char *address;
    size_t size;
    int fd;
    enum State state;
    int pins;
    int is_freed;  /* by numpy, while pinned */
    int is_known;  /* to the coordinator */
    int is_zero;   /* never used */
    uint64_t used; /* when it became free */
    char *copy;    /* during a fork: what the child is to have */
} Block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Block blocks[BLOCKS];
static Functions before;
static _Atomic int is_enabled;
static int is_copy; /* of a worker: this process was forked by user code */
static uint64_t clock_ticks;
/* Bytes of live and of free blocks, where the coordinator can see them at any time. */
static _Atomic uint64_t *ledger;

static size_t bytes_of(enum State state) {
    size_t bytes = 0;
    for (Block *block = blocks; block < blocks + BLOCKS; block++)
        if (block->state == state)
            bytes += block->size;
    return bytes;
}

static void note(void) {
    if (ledger && !is_copy) {
        ledger[0] = bytes_of(LIVE);
        ledger[1] = bytes_of(FREE);
    }
}

/* Four sizes to each power of two: at most a quarter is wasted. */
static size_t rounded(size_t size) {
    size_t step = SMALLEST / 4;
    while (step * 8 < size)
        step *= 2;
    return (size + step - 1) / step * step;
}

static int sealed_memfd(size_t size) {
    int fd = (int)syscall(SYS_memfd_create, "millpond-array", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    /* Allocated here, so that there is no SIGBUS later. The coordinator reads only what cannot change its size. */
    if (fallocate(fd, 0, 0, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    close(fd);
    return -1;
}

static void discard(Block *block) {
    munmap(block->address, block->size);
    if (block->fd >= 0)
        close(block->fd);
    memset(block, 0, sizeof *block);
}

static Block *new_block(size_t size) {
    Block *block = blocks;
    while (block < blocks + BLOCKS && block->state != NONE)
        block++;
    size_t unlent = bytes_of(FREE) + bytes_of(LIVE);
    if (block == blocks + BLOCKS || (unlent > 0 && unlent + size > MOST))
        return NULL;
    int fd = sealed_memfd(size);
    if (fd < 0)
        return NULL;
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (address == MAP_FAILED) {
        close(fd);
        return NULL;
    }
    *block = (Block){.address = address, .size = size, .fd = fd, .is_zero = 1};
    return block;
}

/* The free block that was used last, as it is most likely in the caches; not one of more than twice the size. */
static Block *free_block(size_t size) {
    Block *found = NULL;
    for (Block *block = blocks; block < blocks + BLOCKS; block++)
        if (block->state == FREE && block->size >= size && block->size / 2 <= size && (!found || block->used > found->used))
            found = block;
    return found;
}

static Block *take(size_t size) {
    Block *block = free_block(size);
    if (!block)
        block = new_block(rounded(size));
    if (block) {
        block->state = LIVE;
        note();
    }
    return block;
}

/* An array gives its block back. */
static void give(Block *block) {
    if (block->state == PRIVATE) {
        discard(block);
        return;
    }
    block->state = FREE;
    block->is_zero = 0;
    block->is_freed = 0;
    block->used = ++clock_ticks;
    note();
}

static Block *block_at(const void *memory) {
    if ((uintptr_t)memory % PAGE != 0)
        return NULL;
    for (Block *block = blocks; block < blocks + BLOCKS; block++)
        if (block->address == memory && (block->state == LIVE || block->state == PRIVATE) && !block->is_freed)
            return block;
    return NULL;
}

static void *array_malloc(void *ctx, size_t size) {
    (void)ctx;
    if (is_enabled && size >= SMALLEST && size <= LARGEST) {
        pthread_mutex_lock(&mutex);
        Block *block = take(size);
        pthread_mutex_unlock(&mutex);
        if (block)
            return block->address;
    }
    return before.malloc(before.ctx, size);
}

static void *array_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    if (is_enabled && !__builtin_mul_overflow(count, size, &bytes) && bytes >= SMALLEST && bytes <= LARGEST) {
        pthread_mutex_lock(&mutex);
        Block *block = take(bytes);
        pthread_mutex_unlock(&mutex);
        if (block)
            return block->is_zero ? block->address : memset(block->address, 0, bytes);
    }
    return before.calloc(before.ctx, count, size);
}

static void array_free(void *ctx, void *memory, size_t size) {
    (void)ctx;
    if ((uintptr_t)memory % PAGE == 0) {
        pthread_mutex_lock(&mutex);
        Block *block = block_at(memory);
        if (block && block->pins > 0)
            block->is_freed = 1;
        else if (block)
            give(block);
        pthread_mutex_unlock(&mutex);
        if (block)
            return;
    }
    before.free(before.ctx, memory, size);
}

static void *array_realloc(void *ctx, void *memory, size_t size) {
    pthread_mutex_lock(&mutex);
    Block *block = memory ? block_at(memory) : NULL;
    size_t had = block ? block->size : 0;
    pthread_mutex_unlock(&mutex);
    if (!block)
        return before.realloc(before.ctx, memory, size);
    if (size <= had)
        return memory;
    void *larger = array_malloc(ctx, size);
    if (larger) {
        memcpy(larger, memory, had);
        array_free(ctx, memory, had);
    }
    return larger;
}

static Handler handler = {
    .name = "millpond",
    .version = 1,
    .functions = {NULL, array_malloc, array_calloc, array_realloc, array_free},
};

static void before_fork(void) {
    pthread_mutex_lock(&mutex);
    for (Block *block = blocks; block < blocks + BLOCKS; block++) {
        if (block->state != LIVE)
            continue;
        void *copy = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        block->copy = copy == MAP_FAILED ? NULL : memcpy(copy, block->address, block->size);
    }
}

static void after_fork(void) {
    for (Block *block = blocks; block < blocks + BLOCKS; block++)
        if (block->copy) {
            munmap(block->copy, block->size);
            block->copy = NULL;
        }
    pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void) {
    is_copy = 1;
    is_enabled = 0;
    for (Block *block = blocks; block < blocks + BLOCKS; block++) {
        if (block->state != LIVE)
            continue;
        if (!block->copy ||
            mremap(block->copy, block->size, block->size, MREMAP_MAYMOVE | MREMAP_FIXED, block->address) == MAP_FAILED)
            /* There was no memory. Rather than change the parent's array, it dies if it writes to its own. */
            mprotect(block->address, block->size, PROT_READ);
        close(block->fd);
        block->fd = -1;
        block->copy = NULL;
        block->state = PRIVATE;
    }
    pthread_mutex_unlock(&mutex);
}

/* Puts the arrays that numpy makes from now on, while enabled, into blocks. `numpys` is the handler that it has; returns the one
   that it shall have, or NULL. Gives a descriptor of the ledger and its address. */
Handler *millpond_start(const Handler *numpys, int *ledger_fd, uintptr_t *ledger_address) {
    int fd = sealed_memfd(PAGE);
    if (fd < 0)
        return NULL;
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED || pthread_atfork(before_fork, after_fork, after_fork_in_child) != 0) {
        close(fd);
        return NULL;
    }
    before = numpys->functions;
    ledger = page;
    *ledger_fd = fd;
    *ledger_address = (uintptr_t)page;
    return &handler;
}

void millpond_enable(int enabled) { is_enabled = enabled && !is_copy; }

/* Pins the block of an array that has all `length` bytes at `address`. Returns its number, or -1. */
int millpond_pin(uintptr_t address, size_t length) {
    int found = -1;
    pthread_mutex_lock(&mutex);
    for (int number = 0; number < BLOCKS && found < 0; number++) {
        Block *block = &blocks[number];
        uintptr_t start = (uintptr_t)block->address;
        if (block->state == LIVE && address >= start && length <= block->size && address - start <= block->size - length) {
            block->pins++;
            found = number;
        }
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

/* Lends a pinned block, which ends all pins, if nobody in this process can reach it. Otherwise it stays pinned, and 0 is returned. */
int millpond_lend(int number) {
    Block *block = &blocks[number];
    pthread_mutex_lock(&mutex);
    int is_lent = block->state == LIVE && block->pins > 0 && block->is_freed;
    if (is_lent) {
        block->state = LENT;
        block->pins = block->is_freed = block->is_zero = 0;
        block->is_known = 1;
        note();
    }
    pthread_mutex_unlock(&mutex);
    return is_lent;
}

void millpond_unpin(int number) {
    Block *block = &blocks[number];
    pthread_mutex_lock(&mutex);
    if (block->pins > 0 && --block->pins == 0 && block->is_freed)
        give(block);
    pthread_mutex_unlock(&mutex);
}

/* The coordinator gives a block back. */
void millpond_take_back(int number) {
    pthread_mutex_lock(&mutex);
    if (blocks[number].state == LENT)
        give(&blocks[number]);
    pthread_mutex_unlock(&mutex);
}

/* Address, size and descriptor of a block. */
void millpond_describe(int number, uint64_t description[3]) {
    const Block *block = &blocks[number];
    description[0] = (uint64_t)(uintptr_t)block->address;
    description[1] = block->size;
    description[2] = (uint64_t)block->fd;
}

/* Gives the block that has been free for the longest back to the system, unless it is the only one. Returns its number, or -1. */
int millpond_evict_but_one(void) {
    int oldest = -1, found = 0;
    pthread_mutex_lock(&mutex);
    for (int number = 0; number < BLOCKS; number++) {
        if (blocks[number].state != FREE)
            continue;
        found++;
        if (oldest < 0 || blocks[number].used < blocks[oldest].used)
            oldest = number;
    }
    if (found > 1) {
        discard(&blocks[oldest]);
        note();
    }
    pthread_mutex_unlock(&mutex);
    return found > 1 ? oldest : -1;
}
