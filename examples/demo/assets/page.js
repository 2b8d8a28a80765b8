import { startChat } from "./chat.js";
import { startDownload } from "./download.js";
import { startEvents } from "./events.js";
import { startServer } from "./server.js";

startServer();
startEvents();
startChat();
startDownload();

for (const details of document.querySelectorAll("details[data-source]")) {
  details.addEventListener("toggle", async () => {
    const code = details.querySelector("code");
    if (!details.open || code.textContent) return;
    try {
      const response = await fetch(`/source/${details.dataset.source}`);
      code.textContent = await response.text();
    } catch {
      details.open = false;
    }
  });
}
