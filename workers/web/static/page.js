// Keeps the page up to date. Without it the page works too: links, forms, a reload now and then.
//
// The server tells in a stream of events that it lives ("beat"), and that there is something new to
// see ("change"). The page then asks for itself, and takes over what differs, element by element,
// so that focus, selection and scrolling stay where they are.

(() => {
  "use strict";

  const SILENT_AFTER_MS = 12000;
  // Streams end now and then, and the browser comes again at once.
  const CUT_OFF_AFTER_MS = 4000;
  const pulse = document.getElementById("pulse");
  let serverAheadMs = 0;
  let lastBeat = 0;
  let isCutOff = false;
  let source = null;
  let isAsking = false;
  let mustAskAgain = false;

  // --- Time that passes -------------------------------------------------------------------------

  const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

  function span(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    for (const [length, name, smaller, smallerName] of UNITS) {
      if (whole >= length) {
        const rest = Math.floor((whole % length) / smaller);
        return `${Math.floor(whole / length)} ${name}` + (rest ? ` ${rest} ${smallerName}` : "");
      }
    }
    return `${whole} s`;
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    const now = Date.now() + serverAheadMs;
    for (const time of document.querySelectorAll("time[data-ago], time[data-due], time[data-for]")) {
      const seconds = (now - Date.parse(time.dateTime)) / 1000;
      if ("due" in time.dataset) say(time, seconds > -0.5 ? "now" : `in ${span(-seconds)}`);
      else say(time, "ago" in time.dataset ? `${span(seconds)} ago` : span(seconds));
    }
    if (!source || !pulse) return;
    const patienceMs = isCutOff ? CUT_OFF_AFTER_MS : SILENT_AFTER_MS;
    const isLost = lastBeat > 0 && Date.now() - lastBeat > patienceMs;
    pulse.classList.toggle("lost", isLost);
    if (isLost) say(pulse, `No news for ${span((Date.now() - lastBeat) / 1000)}`);
    else if (lastBeat) say(pulse, `Live ${new Date(now).toISOString().slice(11, 19)}`);
  }

  // --- What has changed -------------------------------------------------------------------------

  function isSame(old, fresh) {
    return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && old.id === fresh.id;
  }

  function takeOver(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if ("keep" in old.dataset || old.isEqualNode(fresh)) return;
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      // What a person has opened stays open.
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    takeOverChildren(old, fresh);
  }

  function takeOverChildren(old, fresh) {
    let child = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      let found = child;
      // What has a name is looked for, so that it moves, and is not made anew.
      if (wanted.id) {
        while (found && !isSame(found, wanted)) found = found.nextSibling;
      }
      if (found && isSame(found, wanted)) {
        while (child !== found) child = remove(child);
        child = found.nextSibling;
        takeOver(found, wanted);
      } else {
        old.insertBefore(wanted, child);
      }
    }
    while (child) child = remove(child);
  }

  function remove(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  async function ask() {
    if (isAsking) {
      mustAskAgain = true;
      return;
    }
    isAsking = true;
    try {
      do {
        mustAskAgain = false;
        const headers = { "X-Live": "1", Accept: "text/html" };
        const answer = await fetch(location.href, { headers, redirect: "manual" });
        // The session has ended, or the page has gone: let the browser show what there is instead.
        if (answer.type === "opaqueredirect") return location.reload();
        show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } while (mustAskAgain);
    } catch {
      // It is asked again at the next change; that nothing comes is said by the pulse.
    } finally {
      isAsking = false;
    }
  }

  function show(fresh) {
    const main = fresh.querySelector("main");
    if (!main) return;
    document.title = fresh.title;
    for (const part of ["header.top", "main", "#icon"]) {
      const [old, wanted] = [document.querySelector(part), fresh.querySelector(part)];
      if (old && wanted) takeOver(old, wanted);
    }
    tick();
  }

  // --- The stream -------------------------------------------------------------------------------

  let told = null;
  let boot = null;

  function connect() {
    if (source || document.hidden) return;
    source = new EventSource("/events");
    source.addEventListener("beat", (event) => {
      lastBeat = Date.now();
      isCutOff = false;
      serverAheadMs = Date.parse(event.data) - lastBeat;
    });
    source.addEventListener("boot", (event) => {
      // After a restart, forms and script may be others.
      if (boot !== null && boot !== event.data) location.reload();
      boot = event.data;
    });
    source.addEventListener("change", (event) => {
      if (told === event.data) return;
      const isFirst = told === null;
      told = event.data;
      if (!isFirst || document.body.dataset.live !== event.data) ask();
    });
    source.addEventListener("error", () => {
      isCutOff = true;
      // The browser tries again by itself, unless it was refused.
      if (source && source.readyState === EventSource.CLOSED) {
        disconnect();
        setTimeout(connect, 5000);
      }
    });
  }

  function disconnect() {
    if (source) source.close();
    source = null;
  }

  if ("live" in document.body.dataset) {
    connect();
    // Who does not look needs no news.
    document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", connect);
  }
  setInterval(tick, 1000);
  tick();

  // Once is enough.
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (button) setTimeout(() => (button.disabled = true));
    addEventListener("pageshow", () => button && (button.disabled = false));
  });
})();
