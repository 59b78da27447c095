#define _GNU_SOURCE
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "path.h"
#include <fcntl.h>

enum { REQUEST_SIZE = 512, REPLY_SIZE = 32768, MAX_INTERFACES = 64 };

struct request {
	struct nlmsghdr head;
	uint8_t body[REQUEST_SIZE];
};

struct netlink {
	int socket;
	uint32_t sequence;
};

static void begin(struct request *request, uint16_t type, uint16_t flags, const void *fixed, size_t size)
{
	memset(request, 0, sizeof(*request));
	request->head.nlmsg_type = type;
	request->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	request->head.nlmsg_len = (uint32_t)NLMSG_LENGTH(size);
	memcpy(request->body, fixed, size);
}

static void attribute(struct request *request, uint16_t type, const void *data, size_t size)
{
	struct rtattr *at = (struct rtattr *)((uint8_t *)request + NLMSG_ALIGN(request->head.nlmsg_len));

	at->rta_type = type;
	at->rta_len = (uint16_t)RTA_LENGTH(size);
	memcpy(RTA_DATA(at), data, size);
	request->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(at->rta_len));
}

/* Send and wait for the kernel's verdict; 0 or -1 with errno. */
static int talk(struct netlink *link, struct request *request)
{
	uint8_t reply[4096];

	request->head.nlmsg_seq = ++link->sequence;
	if (send(link->socket, request, request->head.nlmsg_len, 0) < 0)
		return -1;
	for (;;) {
		ssize_t got = recv(link->socket, reply, sizeof(reply), 0);
		if (got < 0)
			return -1;
		struct nlmsghdr *head = (struct nlmsghdr *)reply;
		if (!NLMSG_OK(head, (size_t)got) || head->nlmsg_seq != link->sequence || head->nlmsg_type != NLMSG_ERROR)
			continue;
		errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
		return errno ? -1 : 0;
	}
}

/* Show one attribute of one interface to whoever looks for something. */
typedef void (*look_fn)(const struct ifinfomsg *info, const struct rtattr *at, void *context);

static void look_at(struct nlmsghdr *head, look_fn look, void *context)
{
	struct ifinfomsg *info = NLMSG_DATA(head);
	int left = (int)IFLA_PAYLOAD(head);

	for (struct rtattr *at = IFLA_RTA(info); RTA_OK(at, left); at = RTA_NEXT(at, left))
		look(info, at, context);
}

static void look_at_all(struct netlink *link, look_fn look, void *context)
{
	static uint8_t reply[REPLY_SIZE];
	struct request request;

	begin(&request, RTM_GETLINK, NLM_F_DUMP, &(struct ifinfomsg){.ifi_family = AF_UNSPEC}, sizeof(struct ifinfomsg));
	request.head.nlmsg_flags &= (uint16_t)~NLM_F_ACK;
	request.head.nlmsg_seq = ++link->sequence;
	if (send(link->socket, &request, request.head.nlmsg_len, 0) < 0)
		return;
	for (;;) {
		ssize_t got = recv(link->socket, reply, sizeof(reply), 0);
		if (got <= 0)
			return;
		size_t left = (size_t)got;
		for (struct nlmsghdr *head = (struct nlmsghdr *)reply; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
			if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR)
				return;
			if (head->nlmsg_type == RTM_NEWLINK)
				look_at(head, look, context);
		}
	}
}

struct search {
	const uint8_t *mac;
	int index;
};

static void match_mac(const struct ifinfomsg *info, const struct rtattr *at, void *context)
{
	struct search *search = context;

	if (at->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(at) == 6 && memcmp(RTA_DATA(at), search->mac, 6) == 0)
		search->index = info->ifi_index;
}

/* The interface with that MAC, or 0. */
static int find_link(struct netlink *link, const uint8_t *mac)
{
	struct search search = {mac, 0};

	look_at_all(link, match_mac, &search);
	return search.index;
}

static void add_traffic(const struct ifinfomsg *info, const struct rtattr *at, void *context)
{
	struct rtnl_link_stats64 stats;
	uint64_t *traffic = context;

	if (info->ifi_flags & IFF_LOOPBACK || at->rta_type != IFLA_STATS64 || RTA_PAYLOAD(at) < sizeof(stats))
		return;
	memcpy(&stats, RTA_DATA(at), sizeof(stats));
	traffic[0] += stats.rx_bytes;
	traffic[1] += stats.tx_bytes;
}

/* What a VM that was restored from a template has for its interface number `i`; nobody else's interface has such a MAC. */
static void placeholder_mac(size_t i, uint8_t mac[6])
{
	memcpy(mac, (uint8_t[]){0x02, 0x54, 0x48, 0x00, 0x00, (uint8_t)i}, 6);
}

static int set_mac(struct netlink *link, int index, const uint8_t *mac)
{
	struct request request;

	begin(&request, RTM_NEWLINK, 0, &(struct ifinfomsg){.ifi_family = AF_UNSPEC, .ifi_index = index}, sizeof(struct ifinfomsg));
	attribute(&request, IFLA_ADDRESS, mac, 6);
	return talk(link, &request);
}

/* The interface with that MAC; else the placeholder of that number, which gets the MAC. 0 with errno if there's neither. */
static int claim_link(struct netlink *link, size_t i, const uint8_t *mac)
{
	uint8_t placeholder[6];
	int index = find_link(link, mac);

	if (index)
		return index;
	placeholder_mac(i, placeholder);
	index = find_link(link, placeholder);
	errno = ENODEV;
	return index && set_mac(link, index, mac) == 0 ? index : 0;
}

static bool is_named(int index, const char *name)
{
	char now[IF_NAMESIZE];

	return if_indextoname((unsigned int)index, now) && strcmp(now, name) == 0;
}

static int set_name(struct netlink *link, int index, const char *name)
{
	struct request request;
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_change = IFF_UP};

	begin(&request, RTM_NEWLINK, 0, &info, sizeof(info));
	attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
	return talk(link, &request);
}

static int set_up(struct netlink *link, int index, uint32_t mtu)
{
	struct request request;
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_change = IFF_UP, .ifi_flags = IFF_UP};

	begin(&request, RTM_NEWLINK, 0, &info, sizeof(info));
	if (mtu)
		attribute(&request, IFLA_MTU, &mtu, sizeof(mtu));
	return talk(link, &request);
}

struct address {
	unsigned char family, size;
	uint8_t bytes[16];
};

static int parse_address(const char *text, struct address *address)
{
	address->family = strchr(text, ':') ? AF_INET6 : AF_INET;
	address->size = address->family == AF_INET6 ? 16 : 4;
	errno = EINVAL;
	return inet_pton(address->family, text, address->bytes) == 1 ? 0 : -1;
}

static int add_address(struct netlink *link, int index, const struct address *address)
{
	struct request request;
	struct ifaddrmsg info = {
		.ifa_family = address->family,
		.ifa_prefixlen = (uint8_t)(address->size * 8),
		.ifa_flags = IFA_F_PERMANENT | (address->family == AF_INET6 ? IFA_F_NODAD : 0),
		.ifa_index = (uint32_t)index,
	};

	begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	attribute(&request, IFA_LOCAL, address->bytes, address->size);
	attribute(&request, IFA_ADDRESS, address->bytes, address->size);
	return talk(link, &request);
}

/* Route `to`/`prefix` through `gateway`, or straight to the interface where that is NULL. */
static int add_route(struct netlink *link, int index, const struct address *to, unsigned int prefix, const struct address *gateway)
{
	struct request request;
	struct rtmsg info = {
		.rtm_family = to->family,
		.rtm_dst_len = (uint8_t)prefix,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_scope = gateway || to->family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
		.rtm_type = RTN_UNICAST,
	};

	begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	if (prefix)
		attribute(&request, RTA_DST, to->bytes, to->size);
	if (gateway)
		attribute(&request, RTA_GATEWAY, gateway->bytes, gateway->size);
	attribute(&request, RTA_OIF, &index, sizeof(index));
	return talk(link, &request);
}

/* "10.0.0.0/8" by way of `gateway`; a subnet of the other family isn't this gateway's business. */
static int add_subnet(struct netlink *link, int index, const char *subnet, const struct address *gateway)
{
	char text[64];
	struct address to;

	snprintf(text, sizeof(text), "%s", subnet);
	char *slash = strchr(text, '/');
	if (slash)
		*slash = 0;
	if (parse_address(text, &to) < 0)
		return -1;
	unsigned long prefix = slash ? strtoul(slash + 1, NULL, 10) : to.size * 8;
	if (prefix > to.size * 8u)
		return -1;
	return to.family == gateway->family ? add_route(link, index, &to, (unsigned int)prefix, gateway) : 0;
}

/* Address, on-link route to the gateway, and what lies behind it. `which`: for the message. */
static int set_family(struct netlink *link, int index, const struct interface *interface, const char *address, const char *gateway, struct fault *fault)
{
	struct address own, next, any = {0};

	if (!*address)
		return 0;
	if (parse_address(address, &own) < 0 || add_address(link, index, &own) < 0)
		return fault_request(fault, "%s: address %s: %s", interface->name, address, strerror(errno));
	if (!*gateway)
		return 0;
	if (parse_address(gateway, &next) < 0 || next.family != own.family || add_route(link, index, &next, next.size * 8u, NULL) < 0)
		return fault_request(fault, "%s: gateway %s: %s", interface->name, gateway, strerror(errno));
	for (char **route = interface->routes; *route; route++)
		if (add_subnet(link, index, *route, &next) < 0)
			return fault_request(fault, "%s: route %s: %s", interface->name, *route, strerror(errno));
	any.family = own.family;
	if (interface->is_default && add_route(link, index, &any, 0, &next) < 0)
		return fault_request(fault, "%s: default route: %s", interface->name, strerror(errno));
	return 0;
}

/* Before the interface comes up, so that no link-local address appears unasked. */
static void switch_ipv6(const char *name, bool on)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
	write_text(AT_FDCWD, path, on ? "0" : "1");
}

static int configure_one(struct netlink *link, int index, const struct interface *interface, struct fault *fault)
{
	if (!is_named(index, interface->name) && set_name(link, index, interface->name) < 0)
		return fault_request(fault, "rename an interface to %s: %s", interface->name, strerror(errno));
	switch_ipv6(interface->name, *interface->address6);
	if (set_up(link, index, interface->mtu) < 0)
		return fault_request(fault, "%s: up with mtu %u: %s", interface->name, interface->mtu, strerror(errno));
	if (set_family(link, index, interface, interface->address, interface->gateway, fault) < 0)
		return -1;
	return set_family(link, index, interface, interface->address6, interface->gateway6, fault);
}

/* Find all first and give those that have another's name one that can't collide: the kernel's eth0 may have to become eth1. */
static int find_all(struct netlink *link, const struct config *config, int *indexes, struct fault *fault)
{
	char name[IF_NAMESIZE];

	if (config->interface_count > MAX_INTERFACES)
		return fault_request(fault, "%zu interfaces: at most %d", config->interface_count, MAX_INTERFACES);
	for (size_t i = 0; i < config->interface_count; i++) {
		const uint8_t *mac = config->interfaces[i].mac;
		indexes[i] = claim_link(link, i, mac);
		if (!indexes[i])
			return fault_internal(fault, "no interface with address %02x:%02x:%02x:%02x:%02x:%02x: %s", mac[0], mac[1], mac[2],
					      mac[3], mac[4], mac[5], strerror(errno));
		snprintf(name, sizeof(name), "th-new%zu", i);
		if (!is_named(indexes[i], config->interfaces[i].name) && set_name(link, indexes[i], name) < 0)
			return fault_internal(fault, "rename an interface: %s", strerror(errno));
	}
	return 0;
}

static int set_down(struct netlink *link, int index)
{
	struct request request;

	begin(&request, RTM_NEWLINK, 0, &(struct ifinfomsg){.ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_change = IFF_UP}, sizeof(struct ifinfomsg));
	return talk(link, &request);
}

/* Nothing happens without it. */
static void remove_address(struct netlink *link, int index, const char *text)
{
	struct request request;
	struct address address;

	if (!*text || parse_address(text, &address) < 0)
		return;
	struct ifaddrmsg info = {.ifa_family = address.family, .ifa_prefixlen = (uint8_t)(address.size * 8), .ifa_index = (uint32_t)index};
	begin(&request, RTM_DELADDR, 0, &info, sizeof(info));
	attribute(&request, IFA_LOCAL, address.bytes, address.size);
	talk(link, &request);
}

static int release_one(struct netlink *link, size_t i, const struct interface *interface)
{
	uint8_t placeholder[6];
	int index = find_link(link, interface->mac);

	errno = ENODEV;
	if (!index || set_down(link, index) < 0)
		return -1;
	remove_address(link, index, interface->address);
	remove_address(link, index, interface->address6);
	placeholder_mac(i, placeholder);
	return set_mac(link, index, placeholder);
}

static int open_netlink(struct netlink *link)
{
	*link = (struct netlink){socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), 0};
	return link->socket;
}

void net_traffic(uint64_t traffic[2])
{
	struct netlink link;

	traffic[0] = traffic[1] = 0;
	if (open_netlink(&link) < 0)
		return;
	look_at_all(&link, add_traffic, traffic);
	close(link.socket);
}

void net_prepare(void)
{
	struct netlink link;

	if (open_netlink(&link) < 0)
		return; /* net_configure will say it */
	switch_ipv6("all", false);
	switch_ipv6("default", false);
	set_up(&link, 1, 0); /* lo is always the first */
	switch_ipv6("lo", true);
	close(link.socket);
}

static bool wants_ipv6(const struct config *config)
{
	for (size_t i = 0; i < config->interface_count; i++)
		if (*config->interfaces[i].address6)
			return true;
	return false;
}

int net_configure(const struct config *config, struct fault *fault)
{
	struct netlink link;
	int indexes[MAX_INTERFACES], result;

	if (open_netlink(&link) < 0)
		return fault_internal(fault, "netlink: %s", strerror(errno));
	if (wants_ipv6(config)) {
		switch_ipv6("all", true);
		switch_ipv6("default", true);
	}
	result = find_all(&link, config, indexes, fault);
	for (size_t i = 0; result == 0 && i < config->interface_count; i++)
		result = configure_one(&link, indexes[i], &config->interfaces[i], fault);
	close(link.socket);
	return result;
}

int net_release(const struct config *config, struct fault *fault)
{
	struct netlink link;
	int result = 0;

	if (open_netlink(&link) < 0)
		return fault_internal(fault, "netlink: %s", strerror(errno));
	for (size_t i = 0; result == 0 && i < config->interface_count; i++)
		if (release_one(&link, i, &config->interfaces[i]) < 0)
			result = fault_internal(fault, "give %s back: %s", config->interfaces[i].name, strerror(errno));
	close(link.socket);
	return result;
}

static bool same_texts(char *const *one, char *const *other)
{
	while (*one && *other && strcmp(*one, *other) == 0)
		one++, other++;
	return !*one && !*other;
}

/* The same routes by the same gateway: what differs is only who is there. */
static bool same_place(const struct interface *one, const struct interface *other)
{
	return strcmp(one->name, other->name) == 0 && strcmp(one->gateway, other->gateway) == 0 && strcmp(one->gateway6, other->gateway6) == 0 &&
	       !*one->address6 == !*other->address6 && one->is_default == other->is_default && one->mtu == other->mtu &&
	       same_texts(one->routes, other->routes);
}

static int exchange_one(struct netlink *link, const struct interface *before, const struct interface *after, struct fault *fault)
{
	int index = find_link(link, before->mac);

	if (!index)
		return fault_internal(fault, "exchange %s: it isn't there", before->name);
	remove_address(link, index, before->address);
	remove_address(link, index, before->address6);
	if (set_mac(link, index, after->mac) < 0)
		return fault_internal(fault, "exchange %s: %s", before->name, strerror(errno));
	if (set_family(link, index, after, after->address, after->gateway, fault) < 0)
		return -1;
	return set_family(link, index, after, after->address6, after->gateway6, fault);
}

int net_exchange(const struct config *before, const struct config *after, struct fault *fault)
{
	struct netlink link;
	bool same = before->interface_count == after->interface_count;
	int result = 0;

	for (size_t i = 0; same && i < before->interface_count; i++)
		same = same_place(&before->interfaces[i], &after->interfaces[i]);
	if (!same)
		return net_release(before, fault) < 0 ? -1 : net_configure(after, fault);
	if (open_netlink(&link) < 0)
		return fault_internal(fault, "netlink: %s", strerror(errno));
	for (size_t i = 0; result == 0 && i < before->interface_count; i++)
		result = exchange_one(&link, &before->interfaces[i], &after->interfaces[i], fault);
	close(link.socket);
	return result;
}
