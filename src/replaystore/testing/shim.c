/* Faults below the process: each call that touches a file below one folder is counted, and one of them, or all from one on, goes wrong.

   Loaded with LD_PRELOAD, so that it stands between every library of a process (Python, libhdf5, Rust's) and the C library. What is to
   happen is said by `struct control` in shared memory, which a forked child has in common with its parent: the parent fills it in, forks,
   and reads afterwards how far the child got. `replaystore.testing.shim` has the same structure and says what each part means.

   Invariants: a call that is not below the folder is passed on unseen; a call is counted once, before anything happens; a record is
   written after its call has succeeded, and while records are kept, calls happen one at a time, so that their order is that of the log. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FICLONE_CALL 0x40049409UL
#define KINDS 16

enum kind { OPEN, CREATE, WRITE, RESIZE, SYNC, RENAME, UNLINK, LINK, MKDIR, RMDIR, LOCK, MAP, COPY, CLONE, READ, LIST };
enum mode { COUNT, KILL, FAIL, FAIL_ON, SHORT, LIE, LIE_ON, RECORD, SHORT_FAIL };

struct control {
  int64_t count;   /* calls so far */
  int64_t at;      /* the call that goes wrong, from 1 on */
  double share;    /* KILL: of a write, what is done before; 1: all of the call is. SHORT: what is written */
  int32_t mode, error;
  uint32_t kinds;  /* a bit for each kind that is counted */
  int32_t log;     /* RECORD: the descriptor of the log */
  int32_t struck;  /* the kind of the call that went wrong, -1: none did yet */
  char path[512];  /* its path */
  char folder[1024];
  int64_t seen[KINDS]; /* calls of each kind, whatever is counted */
};

static struct control *control;
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside;

__attribute__((constructor)) static void begin(void) {
  if (control) return;
  control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  control->struck = control->log = -1;
}

struct control *shim_control(void) {
  begin();
  return control;
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* --- which calls are counted */

static int below(const char *path) {
  size_t length = strlen(control->folder);
  return length && !strncmp(path, control->folder, length) && (path[length] == '/' || !path[length]);
}

/* The path of a descriptor; 0 if it is none of a file below the folder. */
static int of_fd(int fd, char *path) {
  char link[40];
  if (!control || !control->folder[0] || inside || fd < 0) return 0;
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  errno = before;
  if (length <= 0) return 0;
  path[length] = 0;
  return below(path);
}

/* The absolute form of a path; 0 if it is not below the folder. */
static int of_path(int at, const char *given, char *path) {
  if (!control || !control->folder[0] || inside || !given) return 0;
  int before = errno;
  if (given[0] == '/') {
    snprintf(path, PATH_MAX, "%s", given);
  } else {
    char base[PATH_MAX], link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = at == AT_FDCWD ? readlink("/proc/self/cwd", base, sizeof base - 1) : readlink(link, base, sizeof base - 1);
    if (length <= 0) {
      errno = before;
      return 0;
    }
    base[length] = 0;
    if (snprintf(path, PATH_MAX, "%s/%s", base, given) >= PATH_MAX) path[PATH_MAX - 1] = 0;
  }
  errno = before;
  return below(path);
}

static __attribute__((noreturn)) void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* What a call comes to. */
enum fate { PASS, REFUSED, LIED, CUT, LAST };

/* Count a call, and decide. CUT: a write is shortened, and LAST: done whole; the process is killed after that, if it is to be. */
static enum fate decide(enum kind kind, const char *path) {
  __atomic_add_fetch(&control->seen[kind], 1, __ATOMIC_SEQ_CST);
  if (!(control->kinds >> kind & 1) || control->mode == RECORD) return PASS;
  int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
  int on = control->mode == FAIL_ON || control->mode == LIE_ON || control->mode == SHORT_FAIL;
  if (!control->at || (on ? number < control->at : number != control->at)) return PASS;
  if (control->struck < 0) {
    control->struck = kind;
    snprintf(control->path, sizeof control->path, "%s", path);
  }
  switch (control->mode) {
    case KILL:
      if (control->share >= 1) return LAST;
      if (kind == WRITE && control->share > 0) return CUT;
      die();
    case SHORT_FAIL:
      if (number == control->at) return CUT;
      errno = control->error;
      return REFUSED;
    case FAIL:
    case FAIL_ON:
      errno = control->error;
      return REFUSED;
    case LIE:
    case LIE_ON:
      return LIED;
    case SHORT:
      return kind == WRITE || kind == READ ? CUT : PASS;
  }
  return PASS;
}

static void done(enum fate fate) {
  if (fate == LAST || (fate == CUT && control->mode == KILL)) die();
}

static size_t shortened(size_t length) {
  size_t part = (size_t)(length * control->share);
  return part || length < 2 ? part + (length == 1 && control->mode != KILL) : 1;
}

/* --- records: kind, offset, lengths of path, other and data; then these */

static int keeping(void) {
  if (control->mode != RECORD) return 0;
  pthread_mutex_lock(&recording);
  return 1;
}

static void put(const void *data, size_t length) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  while (length) {
    ssize_t written = real(control->log, data, length);
    if (written <= 0) abort();
    data = (const char *)data + written;
    length -= (size_t)written;
  }
}

static void keep(int kept, int kind, const char *path, const char *other, int64_t offset, const void *data, size_t length, int good) {
  if (!kept) return;
  if (good) {
    int64_t head[5] = {kind, offset, (int64_t)strlen(path), (int64_t)strlen(other), (int64_t)length};
    int before = errno;
    put(head, sizeof head);
    put(path, (size_t)head[2]);
    put(other, (size_t)head[3]);
    put(data, length);
    errno = before;
  }
  pthread_mutex_unlock(&recording);
}

/* A mark of one's own among the records. */
void shim_mark(const char *text) {
  if (control && control->mode == RECORD) keep(keeping(), -1, text, "", 0, "", 0, 1);
}

#define PATH_CALL(kind_, at_, given_, call, lie) \
  char path[PATH_MAX]; \
  if (!of_path(at_, given_, path)) return call; \
  enum fate fate = decide(kind_, path); \
  if (fate == REFUSED) return -1; \
  if (fate == LIED) return lie; \
  int kept = keeping()

/* --- opening */

static int opened(int (*real)(int, const char *, int, ...), int at, const char *given, int flags, mode_t mode) {
  int makes = (flags & (O_CREAT | O_TRUNC)) != 0;
  PATH_CALL(makes ? CREATE : OPEN, at, given, real(at, given, flags, mode), (errno = EIO, -1));
  struct stat status;
  int there = kept && makes && !fstatat(at, given, &status, 0);
  int fd = real(at, given, flags, mode);
  keep(kept, CREATE, path, "", there, "", 0, fd >= 0 && makes && (!there || flags & O_TRUNC));
  done(fate);
  return fd;
}

#define OPENING(name, real_name, head, at) \
  int name head { \
    REAL(real_name); \
    mode_t mode = 0; \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    return opened(real, at, path_, flags, mode); \
  }

OPENING(open, openat, (const char *path_, int flags, ...), AT_FDCWD)
OPENING(open64, openat64, (const char *path_, int flags, ...), AT_FDCWD)
OPENING(openat, openat, (int at, const char *path_, int flags, ...), at)
OPENING(openat64, openat64, (int at, const char *path_, int flags, ...), at)

int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat64(at, path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *stream(FILE *(*real)(const char *, const char *), const char *given, const char *how) {
  char path[PATH_MAX];
  if (!of_path(AT_FDCWD, given, path)) return real(given, how);
  int makes = how[0] != 'r';
  enum fate fate = decide(makes ? CREATE : OPEN, path);
  if (fate == REFUSED || fate == LIED) return NULL;
  int kept = keeping();
  struct stat status;
  int there = kept && makes && !stat(given, &status);
  FILE *file = real(given, how);
  keep(kept, CREATE, path, "", there, "", 0, file && makes && (!there || how[0] == 'w'));
  done(fate);
  return file;
}

FILE *fopen(const char *path, const char *how) {
  REAL(fopen);
  return stream(real, path, how);
}

FILE *fopen64(const char *path, const char *how) {
  REAL(fopen64);
  return stream(real, path, how);
}

DIR *opendir(const char *given) {
  REAL(opendir);
  char path[PATH_MAX];
  if (of_path(AT_FDCWD, given, path)) {
    enum fate fate = decide(LIST, path);
    if (fate == REFUSED || fate == LIED) return NULL;
    done(fate);
  }
  return real(given);
}

/* --- bytes */

/* Where the next byte goes: `given`, unless that is negative. */
static int64_t place(int fd, int64_t given) {
  struct stat status;
  if (given >= 0) return given;
  int before = errno, flags = fcntl(fd, F_GETFL);
  int64_t found = flags & O_APPEND && !fstat(fd, &status) ? status.st_size : lseek(fd, 0, SEEK_CUR);
  errno = before;
  return found;
}

typedef ssize_t (*writer)(int, const void *, size_t, off_t);

static ssize_t plain_write(int fd, const void *data, size_t length, off_t offset) {
  REAL(write);
  (void)offset;
  return real(fd, data, length);
}

static ssize_t placed_write(int fd, const void *data, size_t length, off_t offset) {
  REAL(pwrite64);
  return real(fd, data, length, offset);
}

static ssize_t written(writer real, int fd, const void *data, size_t length, off_t offset) {
  char path[PATH_MAX];
  if (!of_fd(fd, path)) return real(fd, data, length, offset);
  enum fate fate = decide(WRITE, path);
  if (fate == REFUSED) return -1;
  if (fate == LIED) return (ssize_t)length;
  int kept = keeping();
  int64_t start = kept ? place(fd, offset) : 0;
  ssize_t count = real(fd, data, fate == CUT ? shortened(length) : length, offset);
  keep(kept, WRITE, path, "", start, data, count > 0 ? (size_t)count : 0, count > 0);
  done(fate);
  return count;
}

ssize_t write(int fd, const void *data, size_t length) { return written(plain_write, fd, data, length, -1); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return written(placed_write, fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return written(placed_write, fd, data, length, offset); }

/* Pieces are put together: one write, as the file sees it. */
static ssize_t gathered(writer real, int fd, const struct iovec *pieces, int count, off_t offset) {
  size_t length = 0, filled = 0;
  for (int number = 0; number < count; number++) length += pieces[number].iov_len;
  char *whole = malloc(length ? length : 1);
  if (!whole) return errno = ENOMEM, -1;
  for (int number = 0; number < count; number++) {
    memcpy(whole + filled, pieces[number].iov_base, pieces[number].iov_len);
    filled += pieces[number].iov_len;
  }
  ssize_t result = written(real, fd, whole, length, offset);
  free(whole);
  return result;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
  REAL(writev);
  char path[PATH_MAX];
  return of_fd(fd, path) ? gathered(plain_write, fd, pieces, count, -1) : real(fd, pieces, count);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
  REAL(pwritev);
  char path[PATH_MAX];
  return of_fd(fd, path) ? gathered(placed_write, fd, pieces, count, offset) : real(fd, pieces, count, offset);
}

static ssize_t flagged(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
  REAL(pwritev64v2);
  char path[PATH_MAX];
  if (!of_fd(fd, path)) return real(fd, pieces, count, offset, flags);
  return gathered(offset < 0 ? plain_write : placed_write, fd, pieces, count, offset);
}

ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
  return flagged(fd, pieces, count, offset, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *pieces, int count, off64_t offset, int flags) {
  return flagged(fd, pieces, count, offset, flags);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) { return pwritev(fd, pieces, count, offset); }

#define READING(name, head, length_, call) \
  ssize_t name head { \
    REAL(name); \
    char path[PATH_MAX]; \
    size_t length = length_; \
    if (of_fd(fd, path)) { \
      enum fate fate = decide(READ, path); \
      if (fate == REFUSED) return -1; \
      if (fate == CUT && length > 1) length = shortened(length); \
      done(fate); \
    } \
    return call; \
  }

READING(read, (int fd, void *data, size_t size), size, real(fd, data, length))
READING(pread, (int fd, void *data, size_t size, off_t offset), size, real(fd, data, length, offset))
READING(pread64, (int fd, void *data, size_t size, off64_t offset), size, real(fd, data, length, offset))
READING(preadv, (int fd, const struct iovec *to, int count, off_t offset), 0, (length = 0, real(fd, to, count, offset)))
READING(preadv64, (int fd, const struct iovec *to, int count, off64_t offset), 0, (length = 0, real(fd, to, count, offset)))
READING(preadv2, (int fd, const struct iovec *to, int count, off_t offset, int flags), 0, (length = 0, real(fd, to, count, offset, flags)))
READING(preadv64v2, (int fd, const struct iovec *to, int count, off64_t offset, int flags), 0, (length = 0, real(fd, to, count, offset, flags)))

#define FD_CALL(name, kind, head, call, record, other, offset) \
  int name head { \
    REAL(name); \
    char path[PATH_MAX]; \
    if (!of_fd(fd, path)) return call; \
    enum fate fate = decide(kind, path); \
    if (fate == REFUSED) return -1; \
    if (fate == LIED) return 0; \
    int kept = keeping(), result = call; \
    keep(kept, record, path, other, offset, "", 0, !result); \
    done(fate); \
    return result; \
  }

FD_CALL(ftruncate, RESIZE, (int fd, off_t size), real(fd, size), RESIZE, "", size)
FD_CALL(ftruncate64, RESIZE, (int fd, off64_t size), real(fd, size), RESIZE, "", size)
FD_CALL(fsync, SYNC, (int fd), real(fd), SYNC, "", 0)
FD_CALL(fdatasync, SYNC, (int fd), real(fd), SYNC, "", 0)
FD_CALL(syncfs, SYNC, (int fd), real(fd), SYNC, "all", 1)
FD_CALL(flock, LOCK, (int fd, int how), real(fd, how), LOCK, "", 0)
FD_CALL(lockf, LOCK, (int fd, int how, off_t size), real(fd, how, size), LOCK, "", 0)
FD_CALL(lockf64, LOCK, (int fd, int how, off64_t size), real(fd, how, size), LOCK, "", 0)

static int resized(int fd, off_t offset, off_t length, int result, const char *path, int kept) {
  struct stat status;
  int larger = !result && !fstat(fd, &status) && status.st_size == offset + length;
  keep(kept, RESIZE, path, "", offset + length, "", 0, larger);
  return result;
}

#define RESERVING(name, head, call, mode_of) \
  int name head { \
    REAL(name); \
    char path[PATH_MAX]; \
    if (!of_fd(fd, path)) return call; \
    enum fate fate = decide(RESIZE, path); \
    if (fate == REFUSED) return mode_of ? -1 : control->error; \
    if (fate == LIED) return 0; \
    int kept = keeping(), result = resized(fd, offset, length, call, path, kept); \
    done(fate); \
    return result; \
  }

RESERVING(fallocate, (int fd, int how, off_t offset, off_t length), real(fd, how, offset, length), 1)
RESERVING(fallocate64, (int fd, int how, off64_t offset, off64_t length), real(fd, how, offset, length), 1)
RESERVING(posix_fallocate, (int fd, off_t offset, off_t length), real(fd, offset, length), 0)
RESERVING(posix_fallocate64, (int fd, off64_t offset, off64_t length), real(fd, offset, length), 0)

/* Copied bytes are read back for the record. */
static ssize_t copied(int64_t start, ssize_t count, const char *path, int kept) {
  char *data = kept && count > 0 ? malloc((size_t)count) : NULL;
  int from = data ? open(path, O_RDONLY) : -1;
  int good = from >= 0 && pread(from, data, (size_t)count, start) == count;
  if (from >= 0) close(from);
  keep(kept, good || count <= 0 ? WRITE : COPY, path, "", start, good ? data : "", good ? (size_t)count : 0, count > 0);
  free(data);
  return count;
}

ssize_t copy_file_range(int from, off64_t *start, int fd, off64_t *to, size_t length, unsigned flags) {
  REAL(copy_file_range);
  char path[PATH_MAX];
  if (!of_fd(fd, path)) return real(from, start, fd, to, length, flags);
  enum fate fate = decide(COPY, path);
  if (fate == REFUSED) return -1;
  if (fate == LIED) return (ssize_t)length;
  int kept = keeping();
  int64_t begin_ = kept ? place(fd, to ? *to : -1) : 0;
  inside++;
  ssize_t count = copied(begin_, real(from, start, fd, to, length, flags), path, kept);
  inside--;
  done(fate);
  return count;
}

static ssize_t sent(ssize_t (*real)(int, int, off_t *, size_t), int fd, int from, off_t *start, size_t length) {
  char path[PATH_MAX];
  if (!of_fd(fd, path)) return real(fd, from, start, length);
  enum fate fate = decide(COPY, path);
  if (fate == REFUSED) return -1;
  if (fate == LIED) return (ssize_t)length;
  int kept = keeping();
  int64_t begin_ = kept ? place(fd, -1) : 0;
  inside++;
  ssize_t count = copied(begin_, real(fd, from, start, length), path, kept);
  inside--;
  done(fate);
  return count;
}

ssize_t sendfile(int fd, int from, off_t *start, size_t length) {
  REAL(sendfile);
  return sent(real, fd, from, start, length);
}

ssize_t sendfile64(int fd, int from, off64_t *start, size_t length) {
  REAL(sendfile64);
  return sent((ssize_t(*)(int, int, off_t *, size_t))real, fd, from, start, length);
}

int ioctl(int fd, unsigned long request, ...) {
  REAL(ioctl);
  char path[PATH_MAX];
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (request != FICLONE_CALL || !of_fd(fd, path)) return real(fd, request, argument);
  if (control->mode == RECORD) return errno = EOPNOTSUPP, -1; /* the bytes of a clone would not be in the log */
  enum fate fate = decide(CLONE, path);
  if (fate == REFUSED) return -1;
  if (fate == LIED) return 0;
  int result = real(fd, request, argument);
  done(fate);
  return result;
}

#define MAPPING(name, offset_type) \
  void *name(void *where, size_t length, int access, int flags, int fd, offset_type offset) { \
    REAL(name); \
    char path[PATH_MAX]; \
    if (flags & MAP_ANONYMOUS || !of_fd(fd, path)) return real(where, length, access, flags, fd, offset); \
    enum fate fate = decide(MAP, path); \
    if (fate == REFUSED || fate == LIED) return MAP_FAILED; \
    int kept = keeping(); \
    void *result = real(where, length, access, flags, fd, offset); \
    keep(kept, MAP, path, "", 0, "", 0, access & PROT_WRITE && flags & MAP_SHARED && result != MAP_FAILED); \
    done(fate); \
    return result; \
  }

MAPPING(mmap, off_t)
MAPPING(mmap64, off64_t)

#define CONTROLLING(name) \
  int name(int fd, int request, ...) { \
    REAL(name); \
    char path[PATH_MAX]; \
    va_list rest; \
    va_start(rest, request); \
    void *argument = va_arg(rest, void *); \
    va_end(rest); \
    int locks = request == F_SETLK || request == F_SETLKW || request == F_OFD_SETLK || request == F_OFD_SETLKW; \
    if (!locks || !of_fd(fd, path)) return real(fd, request, argument); \
    enum fate fate = decide(LOCK, path); \
    if (fate == REFUSED) return -1; \
    int result = fate == LIED ? 0 : real(fd, request, argument); \
    done(fate); \
    return result; \
  }

CONTROLLING(fcntl)
CONTROLLING(fcntl64)

/* --- names */

#define NAME_CALL(name, kind, head, at, given, call) \
  int name head { \
    REAL(name); \
    PATH_CALL(kind, at, given, call, 0); \
    int result = call; \
    keep(kept, kind, path, "", 0, "", 0, !result); \
    done(fate); \
    return result; \
  }

NAME_CALL(unlink, UNLINK, (const char *given), AT_FDCWD, given, real(given))
NAME_CALL(rmdir, RMDIR, (const char *given), AT_FDCWD, given, real(given))
NAME_CALL(remove, UNLINK, (const char *given), AT_FDCWD, given, real(given))
NAME_CALL(mkdir, MKDIR, (const char *given, mode_t mode), AT_FDCWD, given, real(given, mode))
NAME_CALL(mkdirat, MKDIR, (int at, const char *given, mode_t mode), at, given, real(at, given, mode))

int unlinkat(int at, const char *given, int flags) {
  REAL(unlinkat);
  enum kind kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
  PATH_CALL(kind, at, given, real(at, given, flags), 0);
  int result = real(at, given, flags);
  keep(kept, kind, path, "", 0, "", 0, !result);
  done(fate);
  return result;
}

int truncate(const char *given, off_t size) {
  REAL(truncate);
  PATH_CALL(RESIZE, AT_FDCWD, given, real(given, size), 0);
  int result = real(given, size);
  keep(kept, RESIZE, path, "", size, "", 0, !result);
  done(fate);
  return result;
}

int truncate64(const char *given, off64_t size) { return truncate(given, size); }

/* Two names: the call is counted if either is below the folder. */
#define PAIR_CALL(name, kind, head, from, old, to, new, call, flags_, size_) \
  int name head { \
    REAL(name); \
    char path[PATH_MAX], other[PATH_MAX]; \
    int first = of_path(from, old, path), second = of_path(to, new, other); \
    if (!first && !second) return call; \
    enum fate fate = decide(kind, second ? other : path); \
    if (fate == REFUSED) return -1; \
    if (fate == LIED) return 0; \
    int kept = keeping(), result = call; \
    keep(kept, kind, path, other, flags_, "", 0, !result); \
    done(fate); \
    return result; \
  }

PAIR_CALL(rename, RENAME, (const char *old, const char *new), AT_FDCWD, old, AT_FDCWD, new, real(old, new), 0, 0)
PAIR_CALL(renameat, RENAME, (int from, const char *old, int to, const char *new), from, old, to, new, real(from, old, to, new), 0, 0)
PAIR_CALL(renameat2, RENAME, (int from, const char *old, int to, const char *new, unsigned flags), from, old, to, new,
          real(from, old, to, new, flags), flags, 0)
PAIR_CALL(link, LINK, (const char *old, const char *new), AT_FDCWD, old, AT_FDCWD, new, real(old, new), 0, 0)
PAIR_CALL(linkat, LINK, (int from, const char *old, int to, const char *new, int flags), from, old, to, new,
          real(from, old, to, new, flags), 0, 0)

int symlink(const char *target, const char *given) {
  REAL(symlink);
  PATH_CALL(LINK, AT_FDCWD, given, real(target, given), 0);
  int result = real(target, given);
  keep(kept, LINK, "", path, 1, "", 0, !result);
  done(fate);
  return result;
}

/* renameat2 is not in every C library: it is called by its number, too. */
long syscall(long number, ...) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (int at = 0; at < 6; at++) a[at] = va_arg(rest, long);
  va_end(rest);
  if (number == SYS_renameat2) return renameat2((int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3], (unsigned)a[4]);
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
