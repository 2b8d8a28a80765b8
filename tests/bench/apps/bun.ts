import { dlopen, ptr } from "bun:ffi";

// The client compares with CLOCK_MONOTONIC, but performance.now() starts with the process.
const { symbols } = dlopen("libc.so.6", {
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
});
const time = new BigInt64Array(2);
symbols.clock_gettime(1, ptr(time));
const origin = Number(time[0]) + Number(time[1]) / 1e9 - performance.now() / 1e3;
const monotonic = () => origin + performance.now() / 1e3;

const PLAIN = { headers: { "Content-Type": "text/plain" } };
const EVENTS = { headers: { "Content-Type": "text/event-stream" } };

const subscribers = new Set<ReadableStreamDefaultController>();

function ticking(milliseconds: number) {
  let number = 0;
  let timer: Timer;
  return new Response(
    new ReadableStream({
      start(controller) {
        const tick = () => controller.enqueue(`data: ${number++} ${monotonic().toFixed(6)}\n\n`);
        tick();
        timer = setInterval(tick, milliseconds);
      },
      cancel() {
        clearInterval(timer);
      },
    }),
    EVENTS,
  );
}

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.BENCH_PORT),
  routes: {
    "/two": () =>
      new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue("first\n");
            controller.enqueue("second\n");
            controller.close();
          },
        }),
        PLAIN,
      ),

    "/tokens": () =>
      new Response(
        new ReadableStream({
          start(controller) {
            for (let number = 0; number < 200; number++) {
              controller.enqueue(`data: token ${number}\n\n`);
            }
            controller.close();
          },
        }),
        EVENTS,
      ),

    "/ticks": () => ticking(50),

    "/live": () => ticking(500),

    "/events": (request, server) => {
      server.timeout(request, 0); // Bun's manual advises this for event streams
      let subscriber: ReadableStreamDefaultController;
      return new Response(
        new ReadableStream({
          start(controller) {
            subscriber = controller;
            subscribers.add(subscriber);
            controller.enqueue(":\n\n");
          },
          cancel() {
            subscribers.delete(subscriber);
          },
        }),
        EVENTS,
      );
    },

    "/publish": {
      POST: async (request) => {
        const event = `data: ${await request.text()}\n\n`;
        for (const subscriber of subscribers) subscriber.enqueue(event);
        return new Response(null, { status: 204 });
      },
    },

    "/file": () => new Response(Bun.file(process.env.BENCH_FILE!)),
  },
  fetch: () => new Response(null, { status: 404 }),
});
