/*
 * The floor: the least a program can do that sends every packet through an NFQUEUE.
 *
 *     floor [--queue N] [--headers]
 *
 * It binds a queue, accepts every packet, and decides nothing.  What it costs is what any balancer over
 * NFQUEUE pays to the kernel; what the balancer costs on top is the balancer's own.  Two modes:
 *
 *   with payload (default)   the packet comes up whole and goes back whole, as a program must that
 *                            rewrites addresses in user space
 *   --headers                the first 128 bytes come up, only the verdict goes back, as a program may
 *                            that leaves the rewriting to the kernel
 *
 * Prints "ready" once the queue is bound, and one line of JSON on SIGTERM or SIGINT.
 *
 * How it is fast
 *
 * - recvmmsg() takes up to 64 packets (netlink gives one packet a datagram, so this is the only batching
 *   there is), and one sendmsg() carries all their verdicts.  Verdicts leave in the order of the packets'
 *   ids: kernels that search their list of waiting packets find each at its head.
 * - NFQA_CFG_F_GSO: a 64 KiB packet stays one packet instead of becoming 45.
 * - A packet is returned from where it was received.  Its bytes are the last attribute of the message,
 *   and at least 32 bytes stand before that attribute: a netlink header (16), the queue's header (4) and
 *   the packet's id (12).  A verdict's headers take the same three, exactly 32 bytes.  So the verdict is
 *   written over them, and one iovec covers headers and packet: nothing is copied here.
 * - The buffers' distance is no power of two: else the headers of all 64 packets would compete for the
 *   same few lines of the processor's first cache.
 *
 * A payload that goes back makes the kernel forget what it knew of the packet's checksum.  A packet that
 * the network card was to finish (NFQA_SKB_CSUMNOTREADY) therefore has to be summed here, unless it is to
 * be segmented (NFQA_SKB_GSO): then the kernel sums each segment itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>

enum {
	BATCH = 64,			/* past 16 a larger batch gains nothing but waiting time */
	BUFFER = 65536 + 4096 + 192,	/* a whole IPv4 packet and its attributes; no power of two */
	SOCKET_BYTES = 64 << 20,	/* 64 KiB packets: room for a thousand */
	QUEUE_PACKETS = 65536,
	WHOLE_PACKET = 65531,		/* an attribute's length has 16 bits, 4 bytes of them its header */
	HEADERS = 128,			/* IP and TCP with their options */
	VERDICT = NLMSG_HDRLEN + sizeof(struct nfgenmsg) + NLA_HDRLEN + sizeof(struct nfqnl_msg_verdict_hdr),
};
_Static_assert(VERDICT == 32, "a verdict's headers fill the place of the packet's id, no more");

struct counters {
	unsigned long long packets, bytes, batches, not_ready, to_be_segmented, verdict_errors;
};

/* What one received message says. */
struct queued {
	uint32_t id;			/* big-endian, as it goes back */
	uint32_t form;			/* NFQA_SKB_* */
	int truncated;			/* the packet was longer than what came up */
	struct nlattr *payload;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

static void die(const char *tried)
{
	fprintf(stderr, "floor: cannot %s: %s\n", tried, strerror(errno));
	exit(1);
}

/* The queue's socket */

static char *put_attribute(char *at, int type, const void *data, int length)
{
	struct nlattr *attribute = (struct nlattr *)at;

	attribute->nla_type = type;
	attribute->nla_len = NLA_HDRLEN + length;
	memcpy(at + NLA_HDRLEN, data, length);
	return at + NLA_ALIGN(attribute->nla_len);
}

static void put_header(char *at, int type, int flags, uint16_t queue)
{
	struct nlmsghdr *message = (struct nlmsghdr *)at;
	struct nfgenmsg *about = (struct nfgenmsg *)(at + NLMSG_HDRLEN);

	*message = (struct nlmsghdr){.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type,
				     .nlmsg_flags = NLM_F_REQUEST | flags};
	*about = (struct nfgenmsg){.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(queue)};
}

/* Bind the queue and set it up in one message, so that no packet meets a queue half set up. */
static void bind_queue(int fd, uint16_t queue, uint32_t copied_bytes)
{
	struct nfqnl_msg_config_cmd bind_it = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET)};
	struct nfqnl_msg_config_params copy = {.copy_range = htonl(copied_bytes), .copy_mode = NFQNL_COPY_PACKET};
	uint32_t length = htonl(QUEUE_PACKETS), whole = htonl(NFQA_CFG_F_GSO);
	char request[128] = {0}, answer[4096];
	char *end = request + NLMSG_HDRLEN + sizeof(struct nfgenmsg);
	struct nlmsghdr *message = (struct nlmsghdr *)answer;

	put_header(request, NFQNL_MSG_CONFIG, NLM_F_ACK, queue);
	end = put_attribute(end, NFQA_CFG_CMD, &bind_it, sizeof bind_it);
	end = put_attribute(end, NFQA_CFG_PARAMS, &copy, sizeof copy);
	end = put_attribute(end, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof length);
	end = put_attribute(end, NFQA_CFG_FLAGS, &whole, sizeof whole);
	end = put_attribute(end, NFQA_CFG_MASK, &whole, sizeof whole);
	((struct nlmsghdr *)request)->nlmsg_len = end - request;
	if (send(fd, request, end - request, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
		die("set up the queue");
	if (message->nlmsg_type == NLMSG_ERROR) {
		errno = -((struct nlmsgerr *)NLMSG_DATA(message))->error;
		if (errno)
			die("bind the queue");
	}
}

static int open_queue(uint16_t queue, uint32_t copied_bytes)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	struct timeval wake = {.tv_usec = 200000};	/* a signal may come just before the receive blocks */
	int bytes = SOCKET_BYTES, yes = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&kernel, sizeof kernel))
		die("open a netlink socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wake, sizeof wake);
	/* Without it one overrun stops all delivery until the socket has been read empty. */
	setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &yes, sizeof yes);
	/* An error message need not carry the refused 64 KiB packet back. */
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &yes, sizeof yes);
	bind_queue(fd, queue, copied_bytes);
	return fd;
}

/* Checksums */

static uint64_t sum_words(const char *data, size_t length)
{
	uint64_t total = 0;
	uint32_t word;

	for (; length >= sizeof word; data += sizeof word, length -= sizeof word) {
		memcpy(&word, data, sizeof word);
		total += word;
	}
	word = 0;
	memcpy(&word, data, length);	/* the odd bytes, padded with zeros (little-endian and big-endian alike) */
	return total + word;
}

/* Write the full TCP or UDP checksum of an IPv4 packet. */
static void finish_checksum(char *packet, size_t length)
{
	size_t header = (packet[0] & 15) * 4;
	int protocol = (unsigned char)packet[9];
	size_t field = header + (protocol == IPPROTO_TCP ? 16 : 6);
	uint64_t total;
	uint16_t sum;

	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || field + 2 > length)
		return;
	memset(packet + field, 0, 2);
	total = sum_words(packet + 12, 8) + htons(protocol) + htons(length - header);
	total += sum_words(packet + header, length - header);
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	sum = ~total;
	if (protocol == IPPROTO_UDP && sum == 0)
		sum = 0xffff;
	memcpy(packet + field, &sum, 2);
}

/* The way of a packet: parse, account, verdict */

/* Return 1 and fill *packet* when *message* is a queued packet. */
static int parse(char *message, size_t received, struct queued *packet)
{
	struct nlmsghdr *header = (struct nlmsghdr *)message;
	char *end = message + received;
	char *at = message + NLMSG_HDRLEN + sizeof(struct nfgenmsg);

	if (received < VERDICT || header->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return 0;
	*packet = (struct queued){0};
	while (at + NLA_HDRLEN <= end) {
		struct nlattr *attribute = (struct nlattr *)at;
		char *data = at + NLA_HDRLEN;

		if (attribute->nla_len < NLA_HDRLEN)
			break;
		switch (attribute->nla_type & NLA_TYPE_MASK) {
		case NFQA_PACKET_HDR:
			packet->id = ((struct nfqnl_msg_packet_hdr *)data)->packet_id;
			break;
		case NFQA_SKB_INFO:
			packet->form = ntohl(*(uint32_t *)data);
			break;
		case NFQA_CAP_LEN:
			packet->truncated = 1;
			break;
		case NFQA_PAYLOAD:
			packet->payload = attribute;
			break;
		}
		at += NLA_ALIGN(attribute->nla_len);
	}
	return packet->id != 0;
}

/* Write the 32 bytes that accept packet *id* at *at*; *payload_bytes* of attribute follow them. */
static void write_verdict(char *at, uint16_t queue, uint32_t id, size_t payload_bytes)
{
	struct nfqnl_msg_verdict_hdr accept = {.verdict = htonl(NF_ACCEPT), .id = id};

	put_header(at, NFQNL_MSG_VERDICT, 0, queue);
	((struct nlmsghdr *)at)->nlmsg_len = VERDICT + payload_bytes;
	put_attribute(at + NLMSG_HDRLEN + sizeof(struct nfgenmsg), NFQA_VERDICT_HDR, &accept, sizeof accept);
}

/* Turn one received message into its verdict, in place. */
static struct iovec answer(char *message, uint16_t queue, const struct queued *packet, int headers_only)
{
	size_t attribute_bytes, payload_bytes;
	char *at;

	/* A shortened payload would shorten the packet itself: such a packet is accepted as it is. */
	if (headers_only || packet->truncated || !packet->payload) {
		write_verdict(message, queue, packet->id, 0);
		return (struct iovec){message, VERDICT};
	}
	attribute_bytes = packet->payload->nla_len;
	payload_bytes = attribute_bytes - NLA_HDRLEN;
	if ((packet->form & NFQA_SKB_CSUMNOTREADY) && !(packet->form & NFQA_SKB_GSO))
		finish_checksum((char *)packet->payload + NLA_HDRLEN, payload_bytes);
	at = (char *)packet->payload - VERDICT;
	write_verdict(at, queue, packet->id, attribute_bytes);
	return (struct iovec){at, VERDICT + NLA_ALIGN(attribute_bytes)};
}

static void account(struct counters *count, const struct queued *packet)
{
	count->packets++;
	count->bytes += packet->payload ? packet->payload->nla_len - NLA_HDRLEN : 0;
	count->not_ready += !!(packet->form & NFQA_SKB_CSUMNOTREADY);
	count->to_be_segmented += !!(packet->form & NFQA_SKB_GSO);
}

static void run(int fd, uint16_t queue, int headers_only, struct counters *count)
{
	static char buffers[BATCH][BUFFER] __attribute__((aligned(64)));
	struct mmsghdr received[BATCH] = {0};
	struct iovec place[BATCH], verdicts[BATCH];
	struct queued packet;

	for (int i = 0; i < BATCH; i++) {
		place[i] = (struct iovec){buffers[i], BUFFER};
		received[i].msg_hdr = (struct msghdr){.msg_iov = &place[i], .msg_iovlen = 1};
	}
	while (!stopped) {
		struct msghdr out = {.msg_iov = verdicts};
		int got = recvmmsg(fd, received, BATCH, MSG_WAITFORONE, NULL);

		if (got < 0 && errno != EINTR && errno != EAGAIN)
			die("receive");
		for (int i = 0; i < got; i++) {
			char *message = place[i].iov_base;

			if (!parse(message, received[i].msg_len, &packet)) {
				count->verdict_errors++;
				continue;
			}
			account(count, &packet);
			verdicts[out.msg_iovlen++] = answer(message, queue, &packet, headers_only);
		}
		if (out.msg_iovlen) {
			count->batches++;
			if (sendmsg(fd, &out, 0) < 0)
				die("send verdicts");
		}
	}
}

static void report(const struct counters *count)
{
	struct rusage used;
	double cpu_us;

	getrusage(RUSAGE_SELF, &used);
	cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
	printf("{\"packets\": %llu, \"bytes\": %llu, \"average_batch\": %.2f, \"cpu_us_per_packet\": %.3f, "
	       "\"not_ready\": %llu, \"to_be_segmented\": %llu, \"verdict_errors\": %llu}\n",
	       count->packets, count->bytes, count->batches ? (double)count->packets / count->batches : 0,
	       count->packets ? cpu_us / count->packets : 0, count->not_ready, count->to_be_segmented,
	       count->verdict_errors);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"queue", required_argument, NULL, 'q'}, {"headers", no_argument, NULL, 'h'}, {0}};
	struct sigaction on_signal = {.sa_handler = stop};
	struct counters count = {0};
	int queue = 0, headers_only = 0, chosen, fd;

	while ((chosen = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (chosen == 'q') {
			queue = atoi(optarg);
		} else if (chosen == 'h') {
			headers_only = 1;
		} else {
			fprintf(stderr, "usage: floor [--queue N] [--headers]\n");
			return 2;
		}
	}
	sigaction(SIGTERM, &on_signal, NULL);
	sigaction(SIGINT, &on_signal, NULL);
	fd = open_queue(queue, headers_only ? HEADERS : WHOLE_PACKET);
	puts("ready");
	fflush(stdout);
	run(fd, queue, headers_only, &count);
	report(&count);
	return 0;
}
