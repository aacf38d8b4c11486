"use strict";
// How the pages get their data from the server. A static site has `frozen.js` in its place, with the same two functions.
(() => {
  class ApiError extends Error {
    constructor(status, message, body) {
      super(message);
      this.status = status;
      this.body = body;
    }
  }

  function address(path, params) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(params || {})) {
      if (value !== null && value !== undefined && value !== "") query.set(name, value);
    }
    const text = query.toString();
    return `api/${path}${text ? `?${text}` : ""}`;
  }

  async function answer(request) {
    let response;
    try {
      response = await request;
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server does not answer. Is `expander-sae browse` still running?");
    }
    if (response.ok) return response;
    const text = await response.text();
    let body = null;
    try {
      body = JSON.parse(text);
    } catch {
      // a refusal in plain words
    }
    throw new ApiError(response.status, (body && body.error) || text.trim() || `The server answered ${response.status}.`, body);
  }

  app.get = async (path, params, signal) => (await answer(fetch(address(path, params), { signal }))).json();

  const send = (method, path, params, body, signal) =>
    answer(fetch(address(path, params), { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal }));

  app.send = async (method, path, params, body, signal) => (await send(method, path, params, body, signal)).json();

  // An answer of several lines of JSON, each given to `each` as it comes.
  app.stream = async (path, params, body, each, signal) => {
    const response = await send("POST", path, params, body, signal);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value || new Uint8Array(), { stream: !done });
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const part = JSON.parse(line);
        if (part.error) throw new ApiError(500, part.error, part);
        each(part);
      }
      if (done) return;
    }
  };

  app.download = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    app.h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
})();
