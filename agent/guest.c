#define _GNU_SOURCE
#include "guest.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "spawn.h"
#include "state.h"

enum {
	IDLE_MS = 10000,  /* a missed edge on the port costs at most this … */
	SENDING_MS = 500, /* … or this, while there's something to send */
	DRAIN_MS = 20,
	KILLED = 137,
	FLAG_OOM = 1,
	OUTPUT_HEAD = 17,
};

/* ---- programs */

static void on_failed(struct guest *guest, struct session *session, const struct fault *fault)
{
	session->failed = true;
	if (!session->mute)
		reply_fault(guest, session->workload ? session->request : session->stream, fault);
}

static void on_running(struct guest *guest, struct session *session)
{
	close(session->sync);
	session->sync = -1;
	if (session->failed)
		return;
	if (session->workload && guest->configuring) {
		on_failed(guest, session, &(struct fault){FAULT_INTERNAL, 0, "the workload's process died while it was set up"});
		return;
	}
	session->running = true;
	if (session->workload)
		guest->state = STATE_RUNNING;
	if (!session->mute)
		reply_started(guest, session->workload ? session->request : session->stream, session->pid);
}

static void on_ready(struct guest *guest)
{
	guest->configuring = false;
	guest->state = STATE_CONFIGURED;
	reply_ok(guest, guest->workload.request);
}

static void on_sync(struct guest *guest, struct session *session)
{
	struct spawn_message message;
	struct stream_context context = context_of(guest);
	int got;

	while (session->sync >= 0 && (got = spawn_receive(session->sync, &message)) >= 0) {
		if (got == 0) {
			on_running(guest, session);
		} else if (message.kind == SPAWN_TTY) {
			session_set_terminal(session, message.descriptor);
			session_write(session, &context);
		} else if (message.kind == SPAWN_READY) {
			on_ready(guest);
		} else {
			on_failed(guest, session, &message.fault);
		}
	}
}

static void on_ended(struct guest *guest, struct session *session, int status)
{
	struct fault fault = {FAULT_INTERNAL, 0, "the process died before the program ran"};

	on_sync(guest, session);
	session->ended = true;
	session->status = status;
	if (!session->running && !session->failed)
		on_failed(guest, session, &fault);
	if (!session->workload)
		return;
	guest->configuring = false;
	guest->oom = session_code(session) == KILLED && cgroup_oom_kills(guest->machine->cgroup) > guest->oom_before;
	if (!session->failed)
		guest->state = STATE_EXITED;
}

static void reap(struct guest *guest)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(guest->signals, &info, sizeof(info)) > 0)
		if (info.ssi_signo == SIGTERM && !guest->machine->real)
			guest->off = true;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == guest->workload.pid)
			on_ended(guest, &guest->workload, status);
		for (struct session *session = guest->sessions; session; session = session->next)
			if (session->pid == pid && !session->ended)
				on_ended(guest, session, status);
	}
}

/* EXIT of what has ended once all of its output is on the way; execs are forgotten then. True: some still wait. */
static bool finish(struct guest *guest)
{
	struct stream_context context = context_of(guest);
	struct session *session = guest->sessions, *next;
	uint64_t now = monotonic_ns();
	bool waiting = false;

	for (; session; session = next) {
		next = session->next;
		if (!session->ended)
			continue;
		if (!session_drain(session, &context, now)) {
			waiting = true;
			continue;
		}
		if (!session->mute && !session->failed)
			send_exit(guest, session, 0);
		remove_session(guest, session);
	}
	if (guest->state != STATE_EXITED)
		return waiting;
	if (!session_drain(&guest->workload, &context, now))
		return true;
	if (guest->link.greeted && !guest->exit_sent && guest->ring.cursor == guest->ring.head) {
		send_exit(guest, &guest->workload, guest->oom ? FLAG_OOM : 0);
		guest->exit_sent = true;
	}
	return waiting;
}

static void send_output(struct guest *guest)
{
	struct chunk chunk;

	while (guest->link.greeted && link_has_room(&guest->link) && ring_peek(&guest->ring, FRAME_PAYLOAD - OUTPUT_HEAD, &chunk)) {
		uint8_t *payload = link_reserve(&guest->link, OUTPUT_HEAD + chunk.size);
		if (!payload)
			return;
		put64(payload, chunk.offset);
		put64(payload + 8, chunk.time);
		payload[16] = chunk.fd;
		ring_take(&guest->ring, &chunk, payload + OUTPUT_HEAD);
		link_commit(&guest->link, T_OUTPUT, 0, OUTPUT_HEAD + chunk.size);
	}
}

/* ---- the loop */

static void serve_slots(struct guest *guest, struct session *session, const struct pollfd *slots)
{
	struct stream_context context = context_of(guest);

	if (slots[0].fd >= 0 && slots[0].revents)
		on_sync(guest, session);
	if (slots[1].fd >= 0 && slots[1].revents)
		session_write(session, &context);
	for (int which = 0; which < 2; which++)
		if (slots[2 + which].fd >= 0 && slots[2 + which].revents)
			session_read(session, &context, which);
}

static size_t fill_polls(struct guest *guest)
{
	struct stream_context context = context_of(guest);
	size_t used = 2;

	guest->polls[0] = (struct pollfd){.fd = guest->signals, .events = POLLIN};
	guest->polls[1] = (struct pollfd){.fd = guest->link.epoll, .events = POLLIN};
	session_poll(&guest->workload, &context, &guest->polls[used]);
	used += SESSION_SLOTS;
	for (struct session *session = guest->sessions; session; session = session->next, used += SESSION_SLOTS)
		session_poll(session, &context, &guest->polls[used]);
	return used;
}

/* Sessions added since fill_polls are at the front of the list and have no slots yet, so streams are served before requests. */
static void serve_streams(struct guest *guest)
{
	const struct pollfd *slots = &guest->polls[2];

	serve_slots(guest, &guest->workload, slots);
	for (struct session *session = guest->sessions; session; session = session->next)
		serve_slots(guest, session, slots += SESSION_SLOTS);
}

static void turn(struct guest *guest, bool waiting)
{
	size_t used = fill_polls(guest);
	bool busy = guest->link.readable && link_has_room(&guest->link);
	int timeout = busy ? 0 : waiting ? DRAIN_MS : buffer_used(&guest->link.out) > 0 ? SENDING_MS : IDLE_MS;

	if (poll(guest->polls, used, timeout) == 0 && !busy)
		guest->link.writable = guest->link.readable = guest->link.descriptor >= 0; /* try, in case an edge was missed */
	serve_streams(guest);
	if (guest->polls[0].revents)
		reap(guest);
	link_update(&guest->link);
	requests_serve(guest);
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void say_goodbye(struct guest *guest)
{
	for (int tries = 0; tries < 100 && guest->link.greeted && buffer_used(&guest->link.out) > 0; tries++) {
		guest->link.writable = true;
		link_flush(&guest->link);
		if (buffer_used(&guest->link.out) > 0)
			poll(NULL, 0, 5);
	}
}

static struct guest guest;

int guest_serve(const struct machine *machine, int port, int listener)
{
	bool waiting = false;

	guest.machine = machine;
	guest.workload = (struct session){.workload = true, .sync = -1, .in = -1, .out = {-1, -1}};
	guest.workload_fd = -1;
	guest.signals = open_signals();
	guest.polls = calloc(2 + SESSION_SLOTS * (SESSIONS_MAX + 1), sizeof(*guest.polls));
	link_open(&guest.link, port, listener);
	while (!guest.off) {
		turn(&guest, waiting);
		send_output(&guest);
		link_flush(&guest.link);
		waiting = finish(&guest);
		send_output(&guest);
		link_flush(&guest.link);
	}
	say_goodbye(&guest);
	if (machine->real)
		machine_off(guest.restart);
	end_all(&guest);
	return 0;
}
