// Talking to the API: the key, problem documents, pictures as blob URLs, event streams by fetch.
"use strict";

const Api = (() => {
  const KEY = "dreamqueue-key";

  class Problem extends Error {
    constructor(status, document) {
      super(document.detail || `The server answered ${status}.`);
      this.status = status;
      this.code = document.code;
    }
  }

  const key = () => sessionStorage.getItem(KEY);
  const setKey = (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY));

  async function request(path, options = {}) {
    const headers = { Authorization: `Bearer ${key()}`, ...options.headers };
    const answer = await fetch(path, { ...options, headers });
    if (!answer.ok && answer.status !== 304) {
      const document = await answer.json().catch(() => ({}));
      throw new Problem(answer.status, document);
    }
    return answer;
  }

  const get = async (path) => (await request(path)).json();

  async function post(path, body, headers = {}) {
    const json = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
    const options = { method: "POST", headers: { ...json, ...headers } };
    if (body !== undefined) options.body = JSON.stringify(body);
    return (await request(path, options)).json();
  }

  async function upload(file) {
    const answer = await request("/v1/images", { method: "POST", body: file, headers: { "Content-Type": file.type } });
    return (await answer.json()).id;
  }

  // An <img> cannot send the key, so pictures are fetched and shown from memory.
  async function picture(url) {
    return URL.createObjectURL(await (await request(`${url}?inline=1`)).blob());
  }

  // Calls onEvent(type, data) until the job has finished; takes a cut stream up again. EventSource cannot send the key.
  async function follow(jobId, onEvent, signal) {
    let last = "";
    for (let failures = 0; failures < 8 && !signal.aborted; ) {
      try {
        const headers = last ? { "Last-Event-ID": last } : {};
        const answer = await request(`/v1/jobs/${jobId}/events`, { headers, signal });
        if (answer.status === 204) return;
        for await (const event of frames(answer.body)) {
          failures = 0;
          last = event.id || last;
          onEvent(event.event, JSON.parse(event.data));
          if (event.event === "finished") return;
        }
      } catch (error) {
        if (signal.aborted || (error instanceof Problem && error.status < 500)) return;
        failures += 1;
      }
      await new Promise((resolve) => setTimeout(resolve, 300 * 2 ** failures));
    }
  }

  async function* frames(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const fields = {};
        for (const line of text.slice(0, end).split("\n")) {
          const colon = line.indexOf(":");
          if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
        }
        if (fields.data) yield fields;
      }
    }
  }

  return { key, setKey, get, post, upload, picture, follow, Problem };
})();
