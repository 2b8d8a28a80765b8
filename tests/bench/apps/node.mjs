import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";

const monotonic = () => Number(process.hrtime.bigint()) / 1e9;

const subscribers = new Set();

function ticking(milliseconds) {
  return async (request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    let number = 0;
    const tick = () => response.write(`data: ${number++} ${monotonic().toFixed(6)}\n\n`);
    tick();
    const timer = setInterval(tick, milliseconds);
    response.on("close", () => clearInterval(timer));
  };
}

const routes = {
  async "/two"(request, response) {
    response.writeHead(200, { "Content-Type": "text/plain" });
    response.write("first\n");
    response.write("second\n");
    response.end();
  },

  async "/tokens"(request, response) {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (let number = 0; number < 200; number++) {
      if (!response.write(`data: token ${number}\n\n`)) await once(response, "drain");
    }
    response.end();
  },

  "/ticks": ticking(50),

  "/live": ticking(500),

  async "/events"(request, response) {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(":\n\n");
    subscribers.add(response);
    response.on("close", () => subscribers.delete(response));
  },

  async "/publish"(request, response) {
    const event = `data: ${await text(request)}\n\n`;
    for (const subscriber of subscribers) subscriber.write(event);
    response.writeHead(204).end();
  },
};

createServer((request, response) => {
  const route = routes[request.url];
  if (route) {
    route(request, response).catch((error) => response.destroy(error));
  } else {
    response.writeHead(404).end();
  }
}).listen(Number(process.env.BENCH_PORT), "127.0.0.1");
