/* Power loss for SQLite files, as an LD_PRELOAD library (reliability R3, storage).
 *
 * Files whose name ends in .db, -wal or -journal are watched. Every write and truncation is done at once, as without
 * this library, and noted with what it replaced until the file is fsynced; so are creation, removal and renaming of a
 * file until its directory is. At the n-th such operation (or fsync) the power is cut: what is not synced is undone,
 * and the process ends with POWER_CUT, without running anything else. By mode, of what is not synced
 *   0 all     everything is lost,
 *   1 some    a random part of the operations reached the disk,
 *   2 torn    of each write a random part of its 512-byte sectors.
 * Directory operations survive up to a random one (none in mode all), because file systems keep their order.
 *
 * fsync can be made to fail: from the n-th on, so many times, it returns EIO, and what was to be synced stays unsynced
 * for good even if a later fsync succeeds, as on Linux, until the same 4 KiB page is written again.
 *
 * Environment: POWERLOSS_CUT, POWERLOSS_MODE, POWERLOSS_SEED, POWERLOSS_EIO (first), POWERLOSS_EIO_COUNT; or a call of
 * powerloss_arm in the process. Numbers count from 1; 0 is never.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { POWER_CUT = 99, FDS = 4096, SLOTS = 256, SECTOR = 512, PAGE = 4096 };
enum { ALL, SOME, TORN };
enum { CREATE, UNLINK, RENAME };

struct slot { dev_t dev; ino_t ino; int fd; };          /* a watched file; fd is our own and never closed */
struct change {                                          /* not synced yet; old_size < 0: size is not restored */
    int slot, doomed;
    off_t off, old_size, new_size;                       /* new_size >= 0: a truncation */
    size_t len, old_len;
    char *old_data, *new_data;
};
struct entry { int kind; char *path, *other; };          /* of a directory, not synced yet */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot slots[SLOTS];
static int slot_of[FDS];                                 /* fd -> slot + 1 */
static struct change *changes;
static struct entry *entries;
static size_t changes_n, changes_room, entries_n, entries_room;
static int slots_n, mode;
static long ops, syncs, cut_at, eio_from, eio_count, spares;
static uint64_t rng = 88172645463325252ull;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

static uint64_t draw(void) { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng >> 11; }

void powerloss_arm(long cut, int how, uint64_t seed, long eio, long count)
{
    cut_at = cut, mode = how, eio_from = eio, eio_count = count, ops = syncs = 0;
    rng = (seed + 1) * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < 8; i++) draw();
}

long powerloss_ops(void) { return ops; }
long powerloss_syncs(void) { return syncs; }

static long number(const char *name) { const char *text = getenv(name); return text ? strtol(text, NULL, 10) : 0; }

__attribute__((constructor)) static void begin(void)
{
    if (real_open) return;
    real_open = dlsym(RTLD_NEXT, "open64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    powerloss_arm(number("POWERLOSS_CUT"), (int)number("POWERLOSS_MODE"), (uint64_t)number("POWERLOSS_SEED"),
                  number("POWERLOSS_EIO"), number("POWERLOSS_EIO_COUNT"));
}

static int ends(const char *path, const char *tail)
{
    size_t a = strlen(path), b = strlen(tail);
    return a >= b && strcmp(path + a - b, tail) == 0;
}

static int watched(const char *path) { return ends(path, ".db") || ends(path, "-wal") || ends(path, "-journal"); }
static int slot(int fd) { return fd >= 0 && fd < FDS ? slot_of[fd] - 1 : -1; }

static void *more(void *array, size_t n, size_t *room, size_t size)
{
    if (n < *room) return array;
    *room = *room ? *room * 2 : 64;
    return realloc(array, *room * size);
}

static struct change *note(int of)
{
    changes = more(changes, changes_n, &changes_room, sizeof *changes);
    struct change *c = &changes[changes_n++];
    memset(c, 0, sizeof *c);
    c->slot = of, c->old_size = c->new_size = -1;
    return c;
}

static void note_entry(int kind, const char *path, const char *other)
{
    entries = more(entries, entries_n, &entries_room, sizeof *entries);
    entries[entries_n++] = (struct entry){kind, strdup(path), other ? strdup(other) : NULL};
}

/* -- the cut ------------------------------------------------------------------------------------------------------ */

static void undo(struct change *c)
{
    int fd = slots[c->slot].fd;
    if (c->old_len) real_pwrite(fd, c->old_data, c->old_len, c->off);
    if (c->old_size >= 0) real_ftruncate(fd, c->old_size);
}

static void redo(struct change *c, unsigned percent)
{
    int fd = slots[c->slot].fd;
    if (c->new_size >= 0 || mode == SOME) {
        if (draw() % 100 >= percent) return;
        if (c->new_size >= 0) real_ftruncate(fd, c->new_size);
        else real_pwrite(fd, c->new_data, c->len, c->off);
        return;
    }
    for (off_t at = c->off, end = c->off + (off_t)c->len; at < end;) {
        off_t next = (at / SECTOR + 1) * SECTOR;
        if (next > end) next = end;
        if (draw() % 100 < percent) real_pwrite(fd, c->new_data + (at - c->off), (size_t)(next - at), at);
        at = next;
    }
}

static void cut(void)
{
    static const unsigned chances[] = {10, 50, 90};
    unsigned percent = chances[draw() % 3];
    for (size_t i = changes_n; i-- > 0;) undo(&changes[i]);
    if (mode != ALL)
        for (size_t i = 0; i < changes_n; i++) redo(&changes[i], percent);
    size_t kept = mode == ALL ? 0 : draw() % (entries_n + 1);
    for (size_t i = entries_n; i-- > 0;) {
        struct entry *e = &entries[i];
        if (i < kept) {
            if (e->kind == UNLINK) real_unlink(e->other);
        } else if (e->kind == CREATE) {
            real_unlink(e->path);
        } else {
            real_rename(e->other, e->path);
        }
    }
    syscall(SYS_exit_group, POWER_CUT);
}

static void count(void) { if (++ops == cut_at) cut(); }

/* -- what becomes durable, and what never does ---------------------------------------------------------------------- */

static void release(struct change *c) { free(c->old_data); free(c->new_data); }

static void durable(int of)
{
    size_t kept = 0;
    for (size_t i = 0; i < changes_n; i++) {
        if (changes[i].slot == of && !changes[i].doomed) release(&changes[i]);
        else changes[kept++] = changes[i];
    }
    changes_n = kept;
}

static void doom(int of)
{
    size_t end = changes_n;
    struct change *whole = malloc((end + 1) * sizeof *whole);
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < end; i++) {
        if (changes[i].slot == of && !changes[i].doomed) whole[n++] = changes[i];
        else changes[kept++] = changes[i];
    }
    changes_n = kept;
    for (size_t i = 0; i < n; i++) {
        struct change w = whole[i];
        for (off_t at = w.off, stop = w.off + (off_t)w.len; w.new_size < 0 && at < stop;) { /* truncations are kept */
            off_t next = (at / PAGE + 1) * PAGE;
            if (next > stop) next = stop;
            struct change *c = note(of);
            c->doomed = 1, c->off = at, c->len = c->old_len = (size_t)(next - at);
            c->old_data = calloc(1, c->len), c->new_data = malloc(c->len);
            memcpy(c->new_data, w.new_data + (at - w.off), c->len);
            for (size_t b = 0; b < c->len && (size_t)(at - w.off) + b < w.old_len; b++)
                c->old_data[b] = w.old_data[(size_t)(at - w.off) + b];
            at = next;
        }
        release(&w);
    }
    free(whole);
}

static void entries_durable(void)
{
    for (size_t i = 0; i < entries_n; i++) {
        if (entries[i].kind == UNLINK) real_unlink(entries[i].other);
        free(entries[i].path);
        free(entries[i].other);
    }
    entries_n = 0;
}

__attribute__((destructor)) static void end(void) { if (real_unlink) entries_durable(); }

/* -- what the program calls ----------------------------------------------------------------------------------------- */

static int watch(int fd, const char *path, int existed)
{
    struct stat st;
    if (fd < 0 || fd >= FDS || fstat(fd, &st) || !S_ISREG(st.st_mode)) return fd;
    int at = 0;
    while (at < slots_n && !(slots[at].dev == st.st_dev && slots[at].ino == st.st_ino)) at++;
    if (at == SLOTS) { fprintf(stderr, "powerloss: more than %d files\n", SLOTS); abort(); }
    if (at == slots_n) {
        slots[slots_n++] = (struct slot){st.st_dev, st.st_ino, fcntl(fd, F_DUPFD_CLOEXEC, 512)};
        if (slots[at].fd < 0) abort();
    }
    slot_of[fd] = at + 1;
    if (!existed) { note_entry(CREATE, path, NULL); count(); }
    return fd;
}

static int open_any(const char *path, int flags, mode_t bits)
{
    begin();
    if (!watched(path)) {
        int fd = real_open(path, flags, bits);
        if (fd >= 0 && fd < FDS) slot_of[fd] = 0;
        return fd;
    }
    pthread_mutex_lock(&lock);
    int existed = access(path, F_OK) == 0;
    int fd = watch(real_open(path, flags, bits), path, existed || !(flags & O_CREAT));
    pthread_mutex_unlock(&lock);
    return fd;
}

#define BITS(flags, bits) \
    mode_t bits = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list list; va_start(list, flags); bits = va_arg(list, mode_t); va_end(list); }

int open(const char *path, int flags, ...) { BITS(flags, bits) return open_any(path, flags, bits); }
int open64(const char *path, int flags, ...) { BITS(flags, bits) return open_any(path, flags, bits); }

int close(int fd)
{
    begin();
    if (fd >= 0 && fd < FDS) slot_of[fd] = 0;
    return real_close(fd);
}

static ssize_t put(int fd, const void *data, size_t len, off_t off, int of)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    fstat(fd, &st);
    struct change *c = note(of);
    c->off = off, c->old_size = st.st_size;
    c->old_data = malloc(len + 1), c->new_data = malloc(len + 1);
    ssize_t got = pread(fd, c->old_data, len, off), done = real_pwrite(fd, data, len, off);
    int error = errno;
    if (done <= 0) {
        release(c);
        changes_n--;
    } else {
        c->len = (size_t)done;
        c->old_len = got > 0 ? (size_t)(got < done ? got : done) : 0;
        memcpy(c->new_data, data, c->len);
        off_t first = off / PAGE, last = (off + done - 1) / PAGE;
        for (size_t i = 0; i + 1 < changes_n; i++)
            if (changes[i].doomed && changes[i].slot == of && changes[i].off / PAGE >= first &&
                changes[i].off / PAGE <= last)
                changes[i].doomed = 0; /* its page is dirty again, and goes to disk whole */
    }
    count();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t len, off_t off)
{
    begin();
    int of = slot(fd);
    return of < 0 ? real_pwrite(fd, data, len, off) : put(fd, data, len, off, of);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t off) { return pwrite64(fd, data, len, off); }

ssize_t write(int fd, const void *data, size_t len)
{
    begin();
    int of = slot(fd);
    if (of < 0) return real_write(fd, data, len);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = put(fd, data, len, at, of);
    if (done > 0) lseek(fd, at + done, SEEK_SET);
    return done;
}

int ftruncate64(int fd, off_t size)
{
    begin();
    int of = slot(fd);
    if (of < 0) return real_ftruncate(fd, size);
    struct stat st;
    pthread_mutex_lock(&lock);
    fstat(fd, &st);
    struct change *c = note(of);
    c->off = size, c->old_size = st.st_size, c->new_size = size;
    if (size < st.st_size) {
        c->old_data = malloc((size_t)(st.st_size - size));
        ssize_t got = pread(fd, c->old_data, (size_t)(st.st_size - size), size);
        c->old_len = got > 0 ? (size_t)got : 0;
    }
    int done = real_ftruncate(fd, size), error = errno;
    count();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_any(int fd, int (*really)(int))
{
    struct stat st;
    int of = slot(fd), folder = of < 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    if (of < 0 && !folder) return really(fd);
    pthread_mutex_lock(&lock);
    count();
    int failed = 0;
    if (folder) {
        entries_durable();
    } else {
        syncs++;
        failed = eio_from && syncs >= eio_from && syncs < eio_from + eio_count;
        if (failed) doom(of);
        else durable(of);
    }
    pthread_mutex_unlock(&lock);
    if (failed) errno = EIO;
    return failed ? -1 : 0; /* nothing is really synced: only this library takes the power away */
}

int fsync(int fd) { begin(); return sync_any(fd, real_fsync); }
int fdatasync(int fd) { begin(); return sync_any(fd, real_fdatasync); }

int unlink(const char *path)
{
    begin();
    if (!watched(path)) return real_unlink(path);
    char spare[4096];
    pthread_mutex_lock(&lock);
    snprintf(spare, sizeof spare, "%s.%d.%ld.unlinked", path, (int)getpid(), spares++);
    int linked = link(path, spare) == 0, done = real_unlink(path), error = errno;
    if (done == 0 && linked) note_entry(UNLINK, path, spare);
    else if (linked) real_unlink(spare);
    if (done == 0) count();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int rename(const char *from, const char *to)
{
    begin();
    if (!watched(from) && !watched(to)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to), error = errno;
    if (done == 0) note_entry(RENAME, from, to), count();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
