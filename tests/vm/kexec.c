// SPDX-License-Identifier: MIT
/*
 * kexec KERNEL WORDS: starts another kernel in place of this one, at once and without a word to
 * processes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int kernel;

	if (argc != 3) {
		fprintf(stderr, "usage: kexec KERNEL WORDS\n");
		return 2;
	}
	kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (kernel < 0) {
		perror(argv[1]);
		return 1;
	}
	if (syscall(SYS_kexec_file_load, kernel, -1, strlen(argv[2]) + 1, argv[2],
		    KEXEC_FILE_NO_INITRAMFS)) {
		perror("kexec_file_load");
		return 1;
	}
	fprintf(stderr, "%s is loaded\n", argv[1]);
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	perror("reboot");
	return 1;
}
