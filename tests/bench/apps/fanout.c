/* The lower bound: one thread, epoll, and a loop of send() over all subscribers.

   GET /events subscribes. POST /publish sends its body to all subscribers as an event. A request
   has to arrive in one piece, as the bench sends it. A subscriber whose socket is full is closed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 1000000

static int subscribers[MOST], count;
static int places[MOST]; /* by descriptor: its index in subscribers + 1; 0 if it is none */

static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char NO_CONTENT[] = "HTTP/1.1 204 No Content\r\n\r\n";
static const char NOT_FOUND[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

static void forget(int sock)
{
    if (places[sock]) {
        int last = subscribers[--count];
        subscribers[places[sock] - 1] = last;
        places[last] = places[sock];
        places[sock] = 0;
    }
    close(sock);
}

static void send_all(int sock, const char *text, size_t size)
{
    if (send(sock, text, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        forget(sock);
}

static void publish(const char *data, size_t size)
{
    char chunk[8192];
    int length = snprintf(chunk, sizeof chunk, "%zX\r\ndata: %.*s\n\n\r\n", size + 8, (int)size, data);
    for (int each = 0; each < count;) {
        int sock = subscribers[each];
        send_all(sock, chunk, length);
        each += places[sock] != 0; /* if it was removed, another one has its place */
    }
}

static void answer(int sock)
{
    char data[4097], *body;
    ssize_t size = recv(sock, data, sizeof data - 1, MSG_DONTWAIT);
    if (size <= 0) {
        forget(sock);
        return;
    }
    data[size] = 0;
    if (!strncmp(data, "GET /events ", 12)) {
        subscribers[count++] = sock;
        places[sock] = count;
        send_all(sock, HEAD, sizeof HEAD - 1);
    } else if (!strncmp(data, "POST /publish ", 14) && (body = strstr(data, "\r\n\r\n"))) {
        publish(body + 4, data + size - body - 4);
        send_all(sock, NO_CONTENT, sizeof NO_CONTENT - 1);
    } else {
        send_all(sock, NOT_FOUND, sizeof NOT_FOUND - 1);
    }
}

int main(int argc, char **argv)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("Error: bind");
        return 1;
    }
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 512, -1);
        for (int each = 0; each < ready; each++) {
            if (events[each].data.fd != listener) {
                answer(events[each].data.fd);
                continue;
            }
            int sock = accept(listener, NULL, NULL);
            if (sock < 0)
                continue;
            setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            event.data.fd = sock;
            epoll_ctl(poller, EPOLL_CTL_ADD, sock, &event);
        }
    }
}
