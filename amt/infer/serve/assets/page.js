// The page of amt.infer --serve: sends a file or a webcam's frames, and shows what comes back. No library, no other server.
"use strict";
(async function () {
  const $ = (id) => document.getElementById(id);
  const COLOURS = ["#ff7a59", "#ffc145", "#5fd068", "#4fb3ff", "#b98cff"]; // thumb to little finger
  const HEADS = { given: "given", fov: "from the field of view", exif: "guessed from EXIF", assumed: "assumed" };
  let about = null, sent = null, current = null, chosen = 0, frames = [], flight = null, camera = null;

  function say(text, bad = false) {
    $("status").textContent = text;
    $("status").classList.toggle("bad", bad);
  }

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function query(more) {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData($("fields"))) if (value.trim()) fields.set(name, value.trim());
    for (const [name, value] of Object.entries(more)) fields.set(name, value);
    return "predict?" + fields;
  }

  async function ask(body, more, signal) {
    const answer = await fetch(query(more), { method: "POST", body, signal, headers: { "Content-Type": "application/octet-stream" } }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the server broke the connection off; is it still running?");
    });
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({ error: "the server is busy; try again in a moment" }));
    throw Object.assign(new Error(told.error), { status: answer.status });
  }

  // ---- a picture or a clip

  async function send(file) {
    if (!about) return;
    stopCamera();
    if (flight) flight.abort();
    const mine = (flight = new AbortController());
    const most = about.most_bytes[file.type.startsWith("video/") ? "clip" : "picture"];
    sent = file;
    $("again").disabled = false;
    if (file.size > most && file.type) return say(`${file.name} is too large; ${most >> 20} MiB may be sent`, true);
    say(`${file.name || "the picture"} is sent …`);
    $("stop").hidden = false;
    try {
      const answer = await ask(file, { name: file.name || "picture" }, mine.signal);
      if (answer.headers.get("Content-Type").startsWith("application/x-ndjson")) await clip(answer, mine);
      else picture(await answer.json());
    } catch (error) {
      if (flight === mine) say(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
    } finally {
      if (flight === mine) { flight = null; $("stop").hidden = true; $("progress").hidden = true; }
    }
  }

  function picture(answer) {
    frames = [];
    $("frameLabel").hidden = true;
    show(answer, `results/${answer.result}/shown.jpg`);
    offer(answer);
    say(`${count(answer.hands.length)} in ${(answer.ms / 1000).toFixed(2)} s`);
  }

  async function clip(answer, mine) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", head = null;
    frames = [];
    offer({ files: [] });
    const take = (line) => {
      if (flight !== mine) return;
      if (line.error) throw new Error(line.error);
      if (line.kind === "clip") {
        head = line;
        $("progress").hidden = false;
        $("progress").max = head.frames;
        $("frameLabel").hidden = false;
      } else if (line.kind === "frame") {
        const last = +$("frame").value >= frames.length - 1;
        frames.push(line);
        $("frame").max = frames.length - 1;
        $("progress").value = frames.length;
        if (last) { $("frame").value = frames.length - 1; seek(); }
        say(`frame ${frames.length} of ${head.frames}`);
      } else {
        offer(line);
        say([`${line.frames} frames`, ...line.notes].join("; "));
      }
    };
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value || "")).split("\n");
      rest = lines.pop();
      for (const line of lines) take(JSON.parse(line));
      if (done) break;
    }
  }

  function seek() {
    const frame = frames[+$("frame").value];
    if (!frame) return;
    $("time").textContent = `${frame.time_s.toFixed(2)} s`;
    show(frame, "data:image/jpeg;base64," + frame.jpeg);
  }

  // ---- the webcam: the next frame is taken when the answer about the last one is here

  async function startCamera() {
    if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia) {
      return say("browsers give a webcam to https or localhost alone; open this page by localhost", true);
    }
    if (flight) flight.abort();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 } }, audio: false });
    } catch (error) {
      return say(`no webcam: ${error.message || error.name}`, true);
    }
    const mine = (camera = { stream, id: Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("") });
    const video = $("video");
    video.srcObject = stream;
    await video.play();
    frames = [];
    $("frameLabel").hidden = true;
    offer({ files: [] });
    $("webcam").setAttribute("aria-pressed", "true");
    $("webcam").textContent = "Stop webcam";
    $("shoot").hidden = false;
    const times = [];
    while (camera === mine) {
      const still = grab(video), blob = await new Promise((done) => still.toBlob(done, "image/jpeg", 0.85));
      try {
        const answer = await (await ask(blob, { stream: mine.id })).json();
        if (camera !== mine) return;
        times.push(performance.now());
        if (times.length > 20) times.shift();
        draw(still, answer);
        show(answer, null);
        const rate = times.length > 1 ? (1000 * (times.length - 1)) / (times[times.length - 1] - times[0]) : 0;
        say(`${rate.toFixed(1)} pictures/s; ${count(answer.hands.length)}`);
      } catch (error) {
        if (camera !== mine || error.status === 409) continue;
        say(error.message, true);
        if (error.status !== 503) return stopCamera();
        await new Promise((done) => setTimeout(done, 1000));
      }
    }
  }

  function stopCamera() {
    if (!camera) return;
    for (const track of camera.stream.getTracks()) track.stop();
    camera = null;
    $("video").srcObject = null;
    $("webcam").setAttribute("aria-pressed", "false");
    $("webcam").textContent = "Use webcam";
    $("shoot").hidden = true;
    if (current) offer({ files: [] }, current);
  }

  function grab(video) {
    const still = document.createElement("canvas");
    still.width = video.videoWidth;
    still.height = video.videoHeight;
    still.getContext("2d").drawImage(video, 0, 0);
    return still;
  }

  function draw(still, answer) {
    const canvas = $("live"), pen = canvas.getContext("2d");
    canvas.width = still.width;
    canvas.height = still.height;
    pen.drawImage(still, 0, 0);
    pen.lineCap = "round";
    for (const hand of answer.hands) {
      const points = hand.record.joints_px;
      for (let joint = 1; joint < points.length; joint++) {
        const from = (joint - 1) % 4 ? points[joint - 1] : points[0], to = points[joint];
        if ([...from, ...to].some((value) => value === null)) continue;
        for (const [colour, width] of [["rgba(0,0,0,0.6)", 5], [COLOURS[(joint - 1) >> 2], 3]]) {
          pen.strokeStyle = colour;
          pen.lineWidth = (width * still.width) / 640;
          pen.beginPath();
          pen.moveTo(...from);
          pen.lineTo(...to);
          pen.stroke();
        }
      }
    }
  }

  // ---- what is shown

  const count = (hands) => (hands === 1 ? "1 hand" : hands ? `${hands} hands` : "no hand found");
  const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  function show(answer, source) {
    current = answer;
    $("empty").hidden = true;
    $("numbers").hidden = false;
    $("picture").hidden = source === null;
    $("live").hidden = source !== null;
    if (source !== null) $("picture").src = source;
    const names = answer.hands.map((hand, k) => `${k + 1}: ${hand.record.side}${hand.number === null ? "" : `, number ${hand.number}`}`);
    const buttons = [...$("hands").children];
    if (buttons.length !== names.length || buttons.some((button, k) => button.textContent !== names[k])) {
      $("hands").replaceChildren(...names.map((name, k) => {
        const button = element("button", name, { type: "button" });
        button.addEventListener("click", () => choose(k));
        return button;
      }));
    }
    choose(Math.min(chosen, Math.max(0, answer.hands.length - 1)));
  }

  function choose(k) {
    chosen = k;
    const hand = current.hands[k];
    [...$("hands").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
    window.showScenes({ faces: about.faces, scenes: hand ? [hand.scene] : [] });
    cards(hand);
    joints(hand);
    const notes = [...current.notes];
    if (current.camera.source !== "given") notes.unshift("Distances are only as good as the guess of K.");
    if (!hand) notes.unshift("No hand was found. A box says where one is.");
    const touches = Boolean(hand && hand.measures.touching !== null);
    document.querySelector(".touches").parentElement.hidden = !touches;
    if (hand && !touches) notes.push("What touches is told where the object is named.");
    $("notes").textContent = notes.join(" ");
  }

  function cards(hand) {
    const shown = [], [[fx, , cx], [, fy, cy]] = current.camera.intrinsics_px;
    if (hand) {
      const m = hand.measures, held = m.object;
      shown.push([`${number(m.distance_mm)} mm`, "wrist to camera"], [`${number(m.length_mm)} mm`, "wrist to middle tip, along bones"]);
      shown.push([`${number(m.width_mm)} mm`, "knuckles, index to little"], [`${number(m.aperture_mm)} mm`, "thumb tip to index tip"]);
      if (m.joints_seen !== null) shown.push([`${m.joints_seen} of 21`, "joints seen"]);
      if (m.touching !== null) shown.push([m.touching.join(", ") || "nothing", `touches (${number(100 * m.touching_share)} % of the hand)`]);
      if (held) {
        shown.push([`${number(held.distance_mm)} mm`, "object's centre to camera"], [`${number(held.gap_mm)} mm`, "hand to object, nearest points"]);
        shown.push([`${held.size_mm.map((side) => number(side, 0)).join(" × ")} mm`, "object's size"]);
      }
    }
    const assumed = current.camera.assumed_deg === null ? "" : `, ${current.camera.assumed_deg}° over the diagonal`;
    shown.push([[fx, fy, cx, cy].map((value) => number(value)).join(", "), `K in px (fx, fy, cx, cy): ${HEADS[current.camera.source] || current.camera.source}${assumed}`]);
    $("cards").replaceChildren(...shown.map(([value, text], k) => {
      const card = element("div", undefined, { class: k === shown.length - 1 ? "card long" : "card" });
      card.append(element("b", value), element("span", text));
      return card;
    }));
  }

  function joints(hand) {
    $("joints").hidden = !hand;
    if (!hand) return;
    const r = hand.record;
    $("joints").tBodies[0].replaceChildren(...about.joints.map((name, k) => {
      const row = element("tr");
      row.append(element("th", name, { scope: "row" }));
      for (const metres of r.joints_m[k]) row.append(element("td", number(metres === null ? null : 1000 * metres)));
      for (const pixel of r.joints_px[k]) row.append(element("td", number(pixel)));
      row.append(element("td", number(r.visibility && r.visibility[k], 2)), element("td", number(r.sigma_mm && r.sigma_mm[k])));
      return row;
    }));
  }

  function offer(answer, asJson) {
    const links = (answer.files || []).map((name) => element("a", `Download ${name}`, { href: `results/${answer.result}/${name}`, download: name }));
    if (asJson) {
      const blob = new Blob([JSON.stringify(asJson.hands.map((hand) => hand.record), null, 1)], { type: "application/json" });
      links.push(element("a", "Download this frame as JSON", { href: URL.createObjectURL(blob), download: "frame.json" }));
    }
    for (const old of $("downloads").children) if (old.href.startsWith("blob:")) URL.revokeObjectURL(old.href);
    $("downloads").replaceChildren(...links);
  }

  // ---- what the user does

  $("file").addEventListener("change", () => { if ($("file").files[0]) send($("file").files[0]); $("file").value = ""; });
  $("fields").addEventListener("submit", (event) => { event.preventDefault(); if (sent) send(sent); });
  $("frame").addEventListener("input", seek);
  $("stop").addEventListener("click", () => { if (flight) flight.abort(); });
  $("webcam").addEventListener("click", () => { if (camera) { stopCamera(); say("stopped"); } else startCamera(); });
  $("shoot").addEventListener("click", () => {
    if (camera) grab($("video")).toBlob((blob) => send(new File([blob], "webcam.png", { type: "image/png" })), "image/png");
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) send(file);
  });

  try {
    about = await (await fetch("about")).json();
  } catch {
    return say("the server does not answer; is it still running?", true);
  }
  $("checkpoint").textContent = `${about.checkpoint}, on ${about.device}`;
  $("objects").replaceChildren(...about.objects.map((name) => element("option", undefined, { value: name })));
})();
