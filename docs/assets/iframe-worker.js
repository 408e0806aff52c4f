// Browsers start no Worker from file://, and search needs one: there its script runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.queue = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inner = frame.contentWindow
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...urls) => urls.reduce(
        (ready, source) => ready.then(() => this.load(new URL(source, url))), Promise.resolve())
      this.frame = frame
      this.load(url).then(() => {
        this.isReady = true
        this.queue.forEach(data => this.deliver(data))
      })
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script")
        Object.assign(script, { src: url, onload: resolve, onerror: reject })
        this.frame.contentDocument.body.append(script)
      })
    }

    deliver(data) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      this.isReady ? this.deliver(data) : this.queue.push(data)
    }

    terminate() {
      this.frame.remove()
    }
  }
}
