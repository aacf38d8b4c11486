// Search from disk: browsers refuse workers of files, so the search runs in a hidden frame that looks like one.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true });
      (document.body || document.documentElement).append(this.frame);
      const inside = this.frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source === inside) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      this.ready = new Promise((resolve) => {
        inside.document.open();
        inside.document.write("<!doctype html><body></body>");
        inside.document.close();
        inside.postMessage = inside.parent.postMessage.bind(inside.parent);
        inside.importScripts = (...urls) =>
          urls.reduce(
            (before, next) =>
              before.then(
                () =>
                  new Promise((done) => {
                    const script = inside.document.createElement("script");
                    Object.assign(script, { src: next, onload: done });
                    inside.document.body.append(script);
                  }),
              ),
            Promise.resolve(),
          );
        const script = inside.document.createElement("script");
        Object.assign(script, { src: url, onload: resolve });
        inside.document.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
