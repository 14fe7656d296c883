/* SPDX-License-Identifier: MIT */
/* packet URI TEXT: ask a VMBus host's service, and print the packet that completes it. */
#include <stdio.h>
#include <string.h>
#include <vmportal.h>

int main(int argc, char **argv)
{
	struct vmp_packet pkt = { .type = VMP_PACKET_DATA, .id = 1, .flags = VMP_PACKET_WANT_COMPLETION };
	struct vmp_channel_opts o = { .size = sizeof(o), .flags = VMP_CH_PACKETS };
	struct vmp_channel *ch = NULL;
	struct vmp *p = NULL;
	char buf[4096];
	ssize_t n = -1;

	if (argc == 3 && !vmp_open(&p, argv[1], 0) && !vmp_channel_open(&ch, p, &o) &&
	    !vmp_packet_send(ch, &pkt, argv[2], strlen(argv[2]), 0, 10000))
		do
			n = vmp_packet_recv(ch, &pkt, buf, sizeof(buf), 10000);
		while (n >= 0 && (pkt.type != VMP_PACKET_COMPLETION || pkt.id != 1));
	if (n < 0)
		fprintf(stderr, "packet: %s\n", argc == 3 ? vmp_errmsg() : "packet URI TEXT");
	else
		printf("%.*s\n", (int)n, buf);
	vmp_channel_close(ch);
	vmp_close(p);
	return n < 0;
}
