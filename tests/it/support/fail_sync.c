/* Loaded ahead of the C library: fdatasync(2) fails with EIO while the file
 * that the variable FAIL_SYNC names is there. A disk whose syncs fail takes
 * privileges to make; the rest of the disk is the real one. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int file)
{
	const char *failing = getenv("FAIL_SYNC");
	if (failing && access(failing, F_OK) == 0) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, file);
}
