/* The hostile compile: each mode tries one thing and prints what came of it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

extern char **environ;
static int tried;

/* One try: a result that is not negative is a hole. */
#define TRY(call) do { tried++; errno = 0; long r_ = (long)(call); if (r_ >= 0) printf("HOLE %s = %ld\n", #call, r_); } while (0)
/* One try that must fail in one way. */
#define WANT(error, call) do { tried++; errno = 0; long r_ = (long)(call); if (r_ >= 0 || errno != error) \
    printf("HOLE %s = %ld, errno %d\n", #call, r_, errno); } while (0)

static int nothing(void *argument) { return 0; }

static long clone_with(int flags) {
    static char stack[65536];
    return clone(nothing, stack + sizeof stack, flags | SIGCHLD, NULL);
}

static long clone3_with(unsigned long long flags) {
    unsigned long long arguments[11] = { flags, 0, 0, 0, SIGCHLD };
    return syscall(435, arguments, sizeof arguments);
}

static void calls(int host_pid) {
    char buffer[256];
    struct iovec local = { buffer, 1 }, remote = { buffer, 1 };
    int input = open("/work/in", O_RDWR);
    if (input < 0) puts("HOLE the probe has no input to try with");
    for (int family = 0; family < 46; family++)
        if (family != AF_UNIX) TRY(socket(family, SOCK_DGRAM, 0));
    TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(socket(AF_INET, SOCK_RAW, 1));
    TRY(syscall(SYS_socket, 0x100000000ul | AF_INET, SOCK_STREAM, 0));
    TRY(socketpair(AF_INET, SOCK_STREAM, 0, (int *)buffer));
    TRY(mount("none", "/tmp", "tmpfs", 0, ""));
    TRY(mount("/", "/tmp", NULL, MS_BIND, NULL));
    TRY(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    TRY(umount2("/usr/bin/probe", MNT_DETACH));
    TRY(syscall(SYS_pivot_root, "/tmp", "/tmp"));
    TRY(chroot("/tmp"));
    TRY(syscall(428, AT_FDCWD, "/", 1)); /* open_tree */
    TRY(syscall(430, "tmpfs", 0)); /* fsopen */
    TRY(syscall(442, AT_FDCWD, "/", 0, buffer, 32)); /* mount_setattr */
    int spaces[] = { CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP };
    for (int i = 0; i < 7; i++) { TRY(unshare(spaces[i])); TRY(clone_with(spaces[i])); }
    TRY(syscall(SYS_setns, open("/proc/self/ns/user", O_RDONLY), 0));
    WANT(ENOSYS, clone3_with(0));
    WANT(ENOSYS, clone3_with(CLONE_NEWUSER));
    WANT(ENOSYS, syscall(9999));
    WANT(ENOSYS, syscall(0x40000000 | SYS_getpid)); /* x32 */
    TRY(ptrace(PTRACE_TRACEME, 0, 0, 0));
    TRY(ptrace(PTRACE_ATTACH, 1, 0, 0));
    TRY(ptrace(PTRACE_SEIZE, 2, 0, 0));
    TRY(syscall(SYS_process_vm_readv, 2, &local, 1, &remote, 1, 0));
    TRY(syscall(SYS_process_vm_writev, 1, &local, 1, &remote, 1, 0));
    TRY(syscall(438, 0, 0, 0)); /* pidfd_getfd */
    struct iovec own = { &local, 1 };
    WANT(ENOSYS, syscall(SYS_process_vm_readv, getpid(), &local, 1, &own, 1, 0));
    struct { unsigned short code; unsigned char t, f; unsigned k; } allow = { 6, 0, 0, 0x7fff0000 };
    struct { unsigned short length; void *filter; } filter = { 1, &allow };
    for (int flags = 0; flags < 16; flags++) WANT(ENOSYS, syscall(SYS_seccomp, 1, flags, &filter));
    WANT(ENOSYS, syscall(SYS_seccomp, 0, 0, NULL)); WANT(ENOSYS, syscall(SYS_seccomp, 2, 0, buffer)); WANT(ENOSYS, prctl(22, 2, &filter));
    TRY(kill(host_pid, 0));
    TRY(kill(host_pid, SIGKILL));
    TRY(syscall(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_SESSION_KEYRING));
    TRY(syscall(SYS_request_key, "user", "x", NULL, KEY_SPEC_SESSION_KEYRING));
    TRY(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1));
    TRY(syscall(SYS_bpf, 0, buffer, 64));
    TRY(syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    TRY(syscall(SYS_userfaultfd, 1));
    TRY(syscall(425, 1, buffer)); /* io_uring_setup */
    TRY(syscall(426, 0, 1, 0, 0, 0, 0));
    TRY(syscall(427, 0, 0, 0, 0));
    TRY(syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY(syscall(SYS_init_module, buffer, 1, ""));
    TRY(syscall(SYS_finit_module, input, "", 0));
    TRY(syscall(SYS_delete_module, "x", 0));
    TRY(syscall(SYS_open_by_handle_at, AT_FDCWD, buffer, 0));
    TRY(syscall(SYS_name_to_handle_at, AT_FDCWD, "/", buffer, buffer, 0));
    TRY(syscall(SYS_fanotify_init, 0, 0));
    TRY(syscall(SYS_quotactl, 0, "/", 0, buffer));
    TRY(syscall(SYS_reboot, 0, 0, 0, 0));
    TRY(syscall(SYS_swapon, "/tmp/x", 0));
    TRY(syscall(SYS_acct, "/tmp/x"));
    TRY(syscall(SYS_syslog, 3, buffer, 10));
    TRY(syscall(SYS_sethostname, "x", 1));
    TRY(syscall(SYS_clock_settime, 0, buffer));
    TRY(syscall(SYS_settimeofday, buffer, NULL));
    TRY(syscall(SYS_personality, 0x0040000));
    TRY(shmget(IPC_PRIVATE, 4096, 0600));
    TRY(syscall(SYS_memfd_create, "x", 0));
    TRY(syscall(SYS_memfd_create, "x", 4));
    TRY(mlock(buffer, 4096));
    TRY(mknod("/tmp/null", S_IFCHR | 0666, makedev(1, 3)));
    TRY(mknod("/tmp/disk", S_IFBLK | 0666, makedev(254, 0)));
    TRY(mknodat(AT_FDCWD, "/tmp/null", S_IFCHR | 0666, makedev(1, 3)));
    TRY(setxattr("/work/in", "user.x", "y", 1, 0));
    TRY(lsetxattr("/work/in", "user.x", "y", 1, 0));
    TRY(fsetxattr(input, "user.x", "y", 1, 0));
    TRY(syscall(463, AT_FDCWD, "/work/in", 0, "user.x", buffer, 16)); /* setxattrat */
    TRY(removexattr("/work/in", "user.x"));
    TRY(ioctl(open("/dev/tty", O_RDWR), TIOCSTI, "x"));
    TRY(ioctl(open("/dev/pts/ptmx", O_RDWR | O_NOCTTY), TIOCSTI, "x"));
    TRY(ioctl(0, TIOCSTI, "x"));
    TRY(setuid(0)); TRY(setgid(0)); TRY(setresuid(0, 0, 0)); TRY(setgroups(0, NULL));
    TRY(setpriority(PRIO_PROCESS, 0, -5));
    struct sched_param real_time = { .sched_priority = 1 };
    TRY(sched_setscheduler(0, SCHED_FIFO, &real_time));
    struct rlimit wide = { RLIM_INFINITY, RLIM_INFINITY };
    TRY(setrlimit(RLIMIT_NPROC, &wide)); TRY(setrlimit(RLIMIT_FSIZE, &wide)); TRY(setrlimit(RLIMIT_AS, &wide));
}

static int writes(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    return fd < 0 ? -1 : (int)write(fd, text, strlen(text));
}

static void files(void) {
    char buffer[64];
    TRY(creat("/hole", 0644)); TRY(mkdir("/hole.d", 0755)); TRY(rename("/usr", "/rsu")); TRY(rmdir("/work"));
    TRY(creat("/.barn/hole", 0644)); TRY(creat("/dev/hole", 0644)); TRY(creat("/dev/shm/hole", 0644));
    TRY(writes("/usr/bin/probe", "x")); TRY(writes("/proc/self/exe", "x")); TRY(writes("/.barn/room", "x"));
    TRY(unlink("/usr/bin/probe")); TRY(rename("/usr/bin/probe", "/usr/bin/other")); TRY(chmod("/usr/bin/probe", 0777));
    TRY(truncate("/usr/bin/probe", 0));
    TRY(writes("/proc/sys/kernel/hostname", "x")); TRY(writes("/proc/sys/vm/drop_caches", "1"));
    TRY(writes("/proc/sysrq-trigger", "h")); TRY(writes("/proc/self/oom_score_adj", "-1000"));
    TRY(writes("/proc/2/oom_score_adj", "1000")); TRY(open("/proc/kcore", O_RDONLY)); TRY(open("/proc/kmsg", O_RDONLY));
    TRY(open("/dev/kmsg", O_RDWR)); TRY(open("/dev/mem", O_RDWR)); TRY(open("/dev/tty", O_RDWR));
    TRY(open("/proc/2/mem", O_RDWR)); TRY(open("/proc/2/environ", O_RDONLY)); TRY(open("/proc/2/fd/1", O_WRONLY));
    TRY(open("/proc/1/root/etc/passwd", O_RDONLY)); TRY(open("/proc/2/root/etc/passwd", O_RDONLY));
    TRY(open("/proc/1/cwd/etc/passwd", O_RDONLY)); TRY(open("/proc/self/root/etc/passwd", O_RDONLY));
    TRY(chdir("/oldroot")); TRY(chdir("/newroot")); TRY(chdir("/proc/1/root/home"));
    TRY(readlink("/proc/2/exe", buffer, sizeof buffer));
}

static void list(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) { printf("cannot list %s\n", path); return; }
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' || entry->d_name[1] > '.') {
            char name[512], target[512];
            snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
            ssize_t length = readlink(name, target, sizeof target);
            if (atoi(entry->d_name) == dirfd(directory) && strstr(path, "/fd")) continue;
            printf("%s -> %.*s\n", entry->d_name, length > 0 ? (int)length : 0, target);
        }
}

/* Everything below a directory: its kind, and the size of files or the target of links. */
static void walk(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) { printf("cannot list %s\n", path); return; }
    for (struct dirent *entry; (entry = readdir(directory));) {
        char name[4096], target[4096];
        struct stat there;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(name, sizeof name, "%s/%s", strcmp(path, "/") ? path : "", entry->d_name);
        if (!strcmp(name, "/proc") || !strcmp(name, "/dev") || !strcmp(name, "/.barn")) continue;
        if (lstat(name, &there)) { printf("cannot stat %s\n", name); continue; }
        if (S_ISLNK(there.st_mode)) {
            ssize_t length = readlink(name, target, sizeof target);
            printf("%s -> %.*s\n", name, (int)length, target);
        } else if (S_ISDIR(there.st_mode)) { printf("%s/\n", name); walk(name); }
        else printf("%s %lld\n", name, (long long)there.st_size);
    }
    closedir(directory);
}

/* Tries to change a file of a tree, and what lies beside it, in every way a file system knows. */
static void change(const char *path) {
    char directory[4096], beside[4200], self[64];
    struct timespec now[2] = { { 0 }, { 0 } };
    struct stat before, after;
    strcpy(directory, path); *strrchr(directory, '/') = 0;
    snprintf(beside, sizeof beside, "%s/beside", directory);
    int fd = open(path, O_RDONLY), above = open(directory, O_RDONLY | O_DIRECTORY);
    int handle = open(path, O_PATH);
    if (fd < 0 || above < 0 || handle < 0 || stat(path, &before)) { puts("HOLE the probe has no file to try with"); return; }
    int flags[] = { O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_RDONLY | O_TRUNC, O_RDWR | O_CREAT };
    for (int i = 0; i < 5; i++) {
        TRY(open(path, flags[i], 0644));
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd); TRY(open(self, flags[i]));
        snprintf(self, sizeof self, "/proc/self/fd/%d", handle); TRY(open(self, flags[i]));
        snprintf(self, sizeof self, "/proc/self/root%s", path); TRY(open(self, flags[i], 0644));
    }
    snprintf(self, sizeof self, "/proc/self/fd/%d/beside", above); TRY(creat(self, 0644));
    TRY(openat(above, "beside", O_WRONLY | O_CREAT, 0644)); TRY(openat(above, ".", O_TMPFILE | O_RDWR, 0600));
    TRY(creat(beside, 0644)); TRY(mkdir(beside, 0755)); TRY(symlink("x", beside)); TRY(mknod(beside, S_IFREG | 0644, 0)); TRY(mkfifo(beside, 0644));
    TRY(chmod(path, 0777)); TRY(fchmod(fd, 0777)); TRY(chmod(directory, 0777)); TRY(fchmod(above, 0777));
    TRY(chown(path, getuid(), getgid())); TRY(fchown(fd, getuid(), getgid())); TRY(lchown(path, 0, 0));
    TRY(utimensat(AT_FDCWD, path, now, 0)); TRY(futimens(fd, now)); TRY(utimensat(AT_FDCWD, directory, now, 0)); TRY(futimens(above, now));
    TRY(truncate(path, 0)); TRY(ftruncate(fd, 0)); TRY(fallocate(fd, 0, 0, 1 << 20)); TRY(write(fd, "x", 1)); TRY(pwrite(fd, "x", 1, 0));
    TRY(unlink(path)); TRY(rename(path, beside)); TRY(rename(path, "/tmp/moved")); TRY(rename("/usr/bin/probe", path)); TRY(rmdir(directory));
    TRY(link(path, beside)); TRY(link(path, "/tmp/linked")); TRY(link("/usr/bin/probe", beside));
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    TRY(linkat(AT_FDCWD, self, AT_FDCWD, "/tmp/linked", AT_SYMLINK_FOLLOW)); TRY(linkat(fd, "", AT_FDCWD, "/tmp/linked", AT_EMPTY_PATH));
    TRY(setxattr(path, "user.x", "y", 1, 0)); TRY(fsetxattr(fd, "user.x", "y", 1, 0));
    void *memory = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRY(memory == MAP_FAILED ? -1 : 0);
    memory = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    TRY(memory == MAP_FAILED ? -1 : mprotect(memory, 1, PROT_READ | PROT_WRITE));
    TRY(mount(NULL, directory, NULL, MS_REMOUNT | MS_BIND, NULL)); TRY(mount(NULL, directory, NULL, MS_REMOUNT, NULL));
    TRY(mount("none", directory, "tmpfs", 0, "")); TRY(umount2(directory, MNT_DETACH)); TRY(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    TRY(syscall(442, AT_FDCWD, directory, 0, self, 32)); TRY(syscall(428, AT_FDCWD, directory, 1));
    TRY(ioctl(fd, 0x40086602, &flags)); /* FS_IOC_SETFLAGS */
    TRY(ioctl(fd, 0x40049409, open("/usr/bin/probe", O_RDONLY))); /* FICLONE */
    TRY(syscall(SYS_fallocate, above, 0, 0, 1));
    if (fstat(fd, &after) || before.st_size != after.st_size || before.st_mode != after.st_mode || before.st_nlink != after.st_nlink
        || before.st_mtime != after.st_mtime || before.st_ctime != after.st_ctime || before.st_atime != after.st_atime) puts("HOLE it changed");
}

static int copy_out(const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY);
    if (fd < 0) { printf("error %d\n", errno); return 1; }
    for (ssize_t count; (count = read(fd, buffer, sizeof buffer)) > 0;) write(1, buffer, count);
    return 0;
}

static int connects(const char *name, int abstract) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path + abstract, name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) { puts("no unix sockets at all"); return 1; }
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
    return connect(fd, (struct sockaddr *)&address, length) == 0 ? (puts("HOLE"), 0) : (printf("error %d\n", errno), 1);
}

static void touch(size_t bytes, int flags) {
    const size_t step = 8 << 20;
    for (size_t done = 0; done < bytes; done += step) {
        char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) { printf("refused at %zu\n", done); fflush(stdout); return; }
        memset(memory, 1, step);
    }
    puts("HOLE all of it");
}

static void fill(const char *directory, size_t bytes) {
    static char block[1 << 20];
    size_t done = 0;
    for (int file = 0; done < bytes; file++) {
        char name[512];
        snprintf(name, sizeof name, "%s/fill%d", directory, file);
        int fd = open(name, O_WRONLY | O_CREAT, 0644);
        if (fd < 0) break;
        ssize_t count = 0;
        for (int i = 0; i < 16 && (count = write(fd, block, sizeof block)) > 0; i++) done += count;
        close(fd);
        if (count <= 0) break;
    }
    printf("%s %zu\n", directory, done);
    fflush(stdout);
}

static int make(const char *kind, const char *path) {
    if (!strcmp(kind, "symlink")) return symlink("/etc/hostname", path);
    if (!strcmp(kind, "proc-symlink")) return symlink("/proc/self/environ", path);
    if (!strcmp(kind, "fifo")) return mkfifo(path, 0644);
    if (!strcmp(kind, "directory")) return mkdir(path, 0755);
    if (!strcmp(kind, "hardlink")) return link("/work/in", path);
    if (!strcmp(kind, "elsewhere")) return rmdir("/work/out") || symlink("/usr/bin", "/work/out");
    if (!strcmp(kind, "proc")) return rmdir("/work/out") || symlink("/proc/self", "/work/out");
    if (!strcmp(kind, "unreadable")) return close(creat(path, 0)) ;
    if (!strcmp(kind, "setuid")) { int fd = creat(path, 06755); return write(fd, "s", 1) != 1 || fchmod(fd, 06755); }
    if (!strcmp(kind, "sparse")) { int fd = creat(path, 0644); return ftruncate(fd, 48 << 20); }
    if (!strcmp(kind, "large")) {
        static char block[1 << 20];
        int fd = creat(path, 0755);
        for (int i = 0; i < 30; i++) { memset(block, i, sizeof block); if (write(fd, block, sizeof block) != sizeof block) return 1; }
        return 0;
    }
    if (!strcmp(kind, "socket")) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        strcpy(address.sun_path, path);
        return bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address);
    }
    return 1;
}

static void sleep_on(void) {
    signal(SIGTERM, SIG_IGN); signal(SIGINT, SIG_IGN); signal(SIGHUP, SIG_IGN);
    for (;;) sleep(1000);
}

int main(int argc, char **argv) {
    const char *mode = argv[1], *first = argc > 2 ? argv[2] : "", *second = argc > 3 ? argv[3] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "calls")) { calls(atoi(first)); printf("tried %d\n", tried); }
    else if (!strcmp(mode, "files")) { files(); printf("tried %d\n", tried); }
    else if (!strcmp(mode, "change")) { for (int i = 2; i < argc; i++) change(argv[i]); printf("tried %d\n", tried); }
    else if (!strcmp(mode, "walk")) walk(first);
    else if (!strcmp(mode, "look")) for (int i = 2; i < argc; i++) { struct stat there; int fd = open(argv[i], O_RDONLY); close(fd); stat(argv[i], &there); }
    else if (!strcmp(mode, "look-far")) { chdir(first); int fd = open(".", O_RDONLY | O_DIRECTORY); chdir("/"); openat(fd, second, O_RDONLY); if (!fork()) { access("/child/asks", R_OK); _exit(0); } wait(NULL); }
    else if (!strcmp(mode, "look-much")) for (int i = 0; i < atoi(first); i++) { char name[64]; snprintf(name, sizeof name, "/none/%d", i); access(name, R_OK); }
    else if (!strcmp(mode, "look-badly")) { open((char *)8, O_RDONLY); open(NULL, O_RDONLY); open("", O_RDONLY); access((char *)-1, 0); static char page[8192]; memset(page, 'x', 8192); page[0] = '/'; page[8191] = 0; open(page, O_RDONLY); }
    else if (!strcmp(mode, "list")) list(first);
    else if (!strcmp(mode, "read")) return copy_out(first);
    else if (!strcmp(mode, "connect")) return connects(second, !strcmp(first, "abstract"));
    else if (!strcmp(mode, "environment")) for (char **e = environ; *e; e++) puts(*e);
    else if (!strcmp(mode, "exit")) return atoi(first);
    else if (!strcmp(mode, "signal")) { raise(atoi(first)); }
    else if (!strcmp(mode, "make")) return make(first, second);
    else if (!strcmp(mode, "write")) { int fd = creat(first, 0644); write(fd, second, strlen(second)); }
    else if (!strcmp(mode, "kill")) { kill(atoi(first), atoi(second)); sleep_on(); }
    else if (!strcmp(mode, "stdin")) { char c; printf("%zd\n", read(0, &c, 1)); }
    else if (!strcmp(mode, "ids")) printf("%d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
    else if (!strcmp(mode, "idle")) printf("%d %d\n", sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
    else if (!strcmp(mode, "int80")) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); printf("HOLE %ld\n", r); }
    else if (!strcmp(mode, "sleep")) sleep_on();
    else if (!strcmp(mode, "spin")) for (;;) ;
    else if (!strcmp(mode, "flood")) for (;;) { static char block[65536]; write(atoi(first), block, sizeof block); }
    else if (!strcmp(mode, "fork-bomb")) for (;;) fork();
    else if (!strcmp(mode, "forks")) { int n = 0; for (long child; (child = fork()) >= 0; n++) if (child == 0) sleep_on(); printf("%d\n", n); }
    else if (!strcmp(mode, "memory")) touch(8ul << 30, MAP_PRIVATE);
    else if (!strcmp(mode, "memory-shared")) touch(8ul << 30, MAP_SHARED);
    else if (!strcmp(mode, "memory-many")) { for (int i = 0; i < 8; i++) if (!fork()) { touch(128 << 20, MAP_PRIVATE); sleep_on(); } while (wait(NULL) > 0); }
    else if (!strcmp(mode, "fill")) for (int i = 2; i < argc; i++) fill(argv[i], 1ul << 30);
    else if (!strcmp(mode, "fill-file")) { static char block[1 << 20]; int fd = creat("/work/f", 0644); for (int i = 0; i < 4096; i++) write(fd, block, sizeof block); }
    else if (!strcmp(mode, "inodes")) for (int i = 0;; i++) { char name[64]; snprintf(name, sizeof name, "/tmp/%d", i); if (close(creat(name, 0644))) sleep_on(); }
    else if (!strcmp(mode, "daemon")) { puts("parent"); if (!fork()) { setsid(); if (!fork()) sleep_on(); _exit(0); } }
    else { printf("no mode %s\n", mode); return 99; }
    return 0;
}
