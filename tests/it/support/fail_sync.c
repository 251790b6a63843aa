/* LD_PRELOAD loads this library before the C library. While the file that the
 * variable FAIL_SYNC names exists, fdatasync(2) fails with EIO. A device whose
 * syncs fail would need privileges. All other calls use the real disk. */
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
