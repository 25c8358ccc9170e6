/* Makes calls of the C library fail or wait, for tests: the nth call of one kind on a path below one directory.
 *
 * ORCH_SHIM_DIR     only files below it
 * ORCH_SHIM_CALL    write | fsync | fdatasync | sync (both) | range | rename | open
 * ORCH_SHIM_NTH     which call, from 1
 * ORCH_SHIM_ERRNO   what it fails with; 0: it only waits
 * ORCH_SHIM_ON      1: also every later one
 * ORCH_SHIM_SLEEP   milliseconds it waits before
 * ORCH_SHIM_LOG     a file outside of the directory: one line for each time, `call number path`
 *
 * It knows calls and paths, not what they are for. Calls made without the C library pass it by. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *dir, *call;
static size_t dir_len;
static unsigned long nth;
static int fault, on, log_fd = -1;
static long sleep_ms;
static atomic_ulong seen;

static long number(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

__attribute__((constructor)) static void begin(void) {
  dir = getenv("ORCH_SHIM_DIR");
  call = getenv("ORCH_SHIM_CALL");
  dir_len = dir ? strlen(dir) : 0;
  nth = (unsigned long)number("ORCH_SHIM_NTH");
  fault = (int)number("ORCH_SHIM_ERRNO");
  on = (int)number("ORCH_SHIM_ON");
  sleep_ms = number("ORCH_SHIM_SLEEP");
  const char *path = getenv("ORCH_SHIM_LOG");
  int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
  if (path) log_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_below(const char *path) {
  return dir && strncmp(path, dir, dir_len) == 0 && (path[dir_len] == '/' || path[dir_len] == 0);
}

/* Whether this call is to fail; waits where it is to wait. */
static int strikes(const char *kind, const char *path) {
  if (!call || strcmp(call, kind) != 0 || !is_below(path)) return 0;
  unsigned long at = atomic_fetch_add(&seen, 1) + 1;
  if (at < nth || (at > nth && !on)) return 0;
  ssize_t (*real_write)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  char line[PATH_MAX + 64];
  int length = snprintf(line, sizeof line, "%s %lu %s\n", kind, at, path);
  if (log_fd >= 0 && length > 0) (void)!real_write(log_fd, line, (size_t)length);
  if (sleep_ms > 0) {
    struct timespec wait = {sleep_ms / 1000, (sleep_ms % 1000) * 1000000};
    while (nanosleep(&wait, &wait) != 0 && errno == EINTR) {
    }
  }
  if (fault == 0) return 0;
  errno = fault;
  return 1;
}

static int strikes_file(const char *kind, int fd) {
  if (!call || strcmp(call, kind) != 0) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return strikes(kind, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
  return strikes_file("write", fd) ? -1 : REAL(write)(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  return strikes_file("write", fd) ? -1 : REAL(writev)(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
  return strikes_file("write", fd) ? -1 : REAL(pwrite)(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  return strikes_file("write", fd) ? -1 : REAL(pwrite64)(fd, bytes, count, at);
}

static int strikes_sync(const char *kind, int fd) {
  return strikes_file(call && strcmp(call, "sync") == 0 ? "sync" : kind, fd);
}

int fsync(int fd) { return strikes_sync("fsync", fd) ? -1 : REAL(fsync)(fd); }

int fdatasync(int fd) { return strikes_sync("fdatasync", fd) ? -1 : REAL(fdatasync)(fd); }

int sync_file_range(int fd, off64_t at, off64_t count, unsigned int flags) {
  return strikes_file("range", fd) ? -1 : REAL(sync_file_range)(fd, at, count, flags);
}

int rename(const char *from, const char *to) { return strikes("rename", to) ? -1 : REAL(rename)(from, to); }

#define OPEN(name)                                                   \
  int name(const char *path, int flags, ...) {                       \
    va_list rest;                                                    \
    va_start(rest, flags);                                           \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                    \
    return strikes("open", path) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
