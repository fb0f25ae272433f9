/* A disk that a test lets fail, or whose writes it records; preloaded. It is all that lies below $EDGED_TEST_DISK_BELOW.

   $EDGED_TEST_DISK names a file of 32-bit numbers that the test writes while the process runs: for each kind of call its
   errno (0: none), and by how many milliseconds an fsync is delayed.

   $EDGED_TEST_DISK_RECORD names a file to which each call that changes something is appended once it has succeeded: one
   header of eight 64-bit numbers (call, file, offset, mode, sizes of two paths and of data, 0), then paths and data. A
   file is named by its inode. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { READ, WRITE, FSYNC, RENAME, CREATE, UNLINK, OPEN, FSYNC_DELAY_MS, NUM_SETTINGS };
enum { CREATED = 1, WRITTEN, TRUNCATED, SYNCED, RENAMED, LINKED, UNLINKED, FOLDER_MADE, FOLDER_REMOVED };

static volatile const int32_t *settings;
static const char *below;
static size_t below_size;
static int record = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void) {
    below = getenv("EDGED_TEST_DISK_BELOW");
    if (!below)
        return;
    below_size = strlen(below);
    const char *path = getenv("EDGED_TEST_DISK");
    int file = path ? REAL(open)(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, NUM_SETTINGS * sizeof *settings, PROT_READ, MAP_SHARED, file, 0);
        REAL(close)(file);
        if (page != MAP_FAILED)
            settings = page;
    }
    path = getenv("EDGED_TEST_DISK_RECORD");
    if (path)
        record = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_below(const char *path) {
    return below && !strncmp(path, below, below_size) && (path[below_size] == '/' || !path[below_size]);
}

/* The absolute path of one that is relative to a folder; 0 when it is not on the disk. */
static int on_disk(int folder, const char *path, char *absolute) {
    char at[PATH_MAX];
    if (!below || !path)
        return 0;
    if (*path == '/')
        return snprintf(absolute, PATH_MAX, "%s", path) < PATH_MAX && is_below(absolute);
    if (folder == AT_FDCWD) {
        if (!getcwd(at, sizeof at))
            return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, at, sizeof at - 1);
        if (size < 0)
            return 0;
        at[size] = 0;
    }
    return snprintf(absolute, PATH_MAX, "%s/%s", at, path) < PATH_MAX && is_below(absolute);
}

static int is_open_on_disk(int file) {
    char link[64], path[PATH_MAX];
    if (!below || file < 0 || file == record)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return is_below(path);
}

static int setting(int kind) {
    return settings ? settings[kind] : 0;
}

static int fails(int kind) {
    int number = setting(kind);
    if (number)
        errno = number;
    return number;
}

static int fails_on(int kind, int file) {
    return setting(kind) && is_open_on_disk(file) && fails(kind);
}

/* In one write, as several processes may append to one file. */
static void note(int64_t call, int64_t file, int64_t offset, int64_t mode, const char *path, const char *other,
                 const void *data, size_t size) {
    int was = errno;
    int64_t header[8] = {call, file, offset, mode, path ? (int64_t)strlen(path) : 0, other ? (int64_t)strlen(other) : 0,
                         (int64_t)size, 0};
    struct iovec parts[4] = {{header, sizeof header},
                             {(void *)path, (size_t)header[4]},
                             {(void *)other, (size_t)header[5]},
                             {(void *)data, size}};
    if (REAL(writev)(record, parts, 4) != (ssize_t)(sizeof header + parts[1].iov_len + parts[2].iov_len + size))
        abort();
    errno = was;
}

static int64_t inode(int file) {
    struct stat about;
    return fstat(file, &about) ? 0 : (int64_t)about.st_ino;
}

static int64_t inode_of(const char *path) {
    struct stat about;
    return lstat(path, &about) ? 0 : (int64_t)about.st_ino;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char absolute[PATH_MAX];
    int is_ours = on_disk(folder, path, absolute);
    if (is_ours) {
        int writes = (flags & O_ACCMODE) != O_RDONLY;
        int is_new = (flags & O_CREAT) && faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW);
        if (setting(OPEN) && fails(OPEN))
            return -1;
        if (setting(CREATE) && (is_new || (writes && setting(CREATE) == EROFS)) && fails(CREATE))
            return -1;
        int file = REAL(openat)(folder, path, flags, mode);
        if (file >= 0 && record >= 0) {
            if (is_new)
                note(CREATED, inode(file), 0, mode, absolute, NULL, NULL, 0);
            else if (flags & O_TRUNC)
                note(TRUNCATED, inode(file), 0, 0, NULL, NULL, NULL, 0);
        }
        return file;
    }
    return REAL(openat)(folder, path, flags, mode);
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return opened(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return opened(folder, path, flags, mode);
}

ssize_t read(int file, void *data, size_t size) {
    return fails_on(READ, file) ? -1 : REAL(read)(file, data, size);
}

ssize_t pread(int file, void *data, size_t size, off_t offset) {
    return fails_on(READ, file) ? -1 : REAL(pread)(file, data, size, offset);
}

ssize_t pread64(int file, void *data, size_t size, off64_t offset) {
    return fails_on(READ, file) ? -1 : REAL(pread64)(file, data, size, offset);
}

static void wrote(int file, const void *data, ssize_t size, off_t offset) {
    if (size > 0 && record >= 0 && is_open_on_disk(file))
        note(WRITTEN, inode(file), offset, 0, NULL, NULL, data, (size_t)size);
}

ssize_t write(int file, const void *data, size_t size) {
    if (fails_on(WRITE, file))
        return -1;
    ssize_t done = REAL(write)(file, data, size);
    if (done > 0 && record >= 0 && file != record)
        wrote(file, data, done, lseek(file, 0, SEEK_CUR) - done);
    return done;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (fails_on(WRITE, file))
        return -1;
    if (record >= 0 && is_open_on_disk(file)) { /* one after the other, as it may be short */
        ssize_t all = 0;
        for (int i = 0; i < count; i++) {
            ssize_t done = write(file, parts[i].iov_base, parts[i].iov_len);
            if (done < 0)
                return all ? all : -1;
            all += done;
            if ((size_t)done < parts[i].iov_len)
                break;
        }
        return all;
    }
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (fails_on(WRITE, file))
        return -1;
    ssize_t done = REAL(pwrite)(file, data, size, offset);
    wrote(file, data, done, offset);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    if (fails_on(WRITE, file))
        return -1;
    ssize_t done = REAL(pwrite64)(file, data, size, offset);
    wrote(file, data, done, offset);
    return done;
}

static int truncated(int file, int result, off_t size) {
    if (!result && record >= 0 && is_open_on_disk(file))
        note(TRUNCATED, inode(file), size, 0, NULL, NULL, NULL, 0);
    return result;
}

int ftruncate(int file, off_t size) {
    return fails_on(WRITE, file) ? -1 : truncated(file, REAL(ftruncate)(file, size), size);
}

int ftruncate64(int file, off64_t size) {
    return fails_on(WRITE, file) ? -1 : truncated(file, REAL(ftruncate64)(file, size), size);
}

static int synced(int file, int (*sync)(int)) {
    int delay_ms = setting(FSYNC_DELAY_MS);
    if ((delay_ms || setting(FSYNC)) && is_open_on_disk(file)) {
        for (int waited_ms = 0; waited_ms < delay_ms && setting(FSYNC_DELAY_MS); waited_ms += 10) {
            struct timespec moment = {0, 10 * 1000 * 1000};
            nanosleep(&moment, NULL);
        }
        if (fails(FSYNC))
            return -1;
    }
    int result = sync(file);
    if (!result && record >= 0 && is_open_on_disk(file))
        note(SYNCED, inode(file), 0, 0, NULL, NULL, NULL, 0);
    return result;
}

int fsync(int file) {
    return synced(file, REAL(fsync));
}

int fdatasync(int file) {
    return synced(file, REAL(fdatasync));
}

static int renamed(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char source[PATH_MAX], target[PATH_MAX];
    if (!on_disk(to_folder, to, target) || !on_disk(from_folder, from, source))
        return REAL(renameat2)(from_folder, from, to_folder, to, flags);
    if (fails(RENAME))
        return -1;
    int result = REAL(renameat2)(from_folder, from, to_folder, to, flags);
    if (!result && record >= 0)
        note(RENAMED, inode_of(target), 0, 0, source, target, NULL, 0);
    return result;
}

int rename(const char *from, const char *to) {
    return renamed(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renamed(from_folder, from, to_folder, to, 0);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return renamed(from_folder, from, to_folder, to, flags);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char source[PATH_MAX], target[PATH_MAX];
    int is_ours = on_disk(to_folder, to, target) && on_disk(from_folder, from, source);
    if (is_ours && fails(CREATE))
        return -1;
    int result = REAL(linkat)(from_folder, from, to_folder, to, flags);
    if (is_ours && !result && record >= 0)
        note(LINKED, inode_of(target), 0, 0, target, NULL, NULL, 0);
    return result;
}

int link(const char *from, const char *to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int folder, const char *path, int flags) {
    char absolute[PATH_MAX];
    int is_ours = on_disk(folder, path, absolute);
    if (is_ours && fails(UNLINK))
        return -1;
    int result = REAL(unlinkat)(folder, path, flags);
    if (is_ours && !result && record >= 0)
        note(flags & AT_REMOVEDIR ? FOLDER_REMOVED : UNLINKED, 0, 0, 0, absolute, NULL, NULL, 0);
    return result;
}

int unlink(const char *path) {
    return unlinkat(AT_FDCWD, path, 0);
}

int remove(const char *path) {
    int result = unlinkat(AT_FDCWD, path, 0);
    return result && errno == EISDIR ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

int rmdir(const char *path) {
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    char absolute[PATH_MAX];
    int is_ours = on_disk(folder, path, absolute);
    if (is_ours && faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW) && fails(CREATE))
        return -1;
    int result = REAL(mkdirat)(folder, path, mode);
    if (is_ours && !result && record >= 0)
        note(FOLDER_MADE, inode_of(absolute), 0, mode, absolute, NULL, NULL, 0);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    return mkdirat(AT_FDCWD, path, mode);
}
