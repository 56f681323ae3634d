// Hands and objects that a pointer turns, drawn on a canvas: triangles, far ones first. No library, no network, no WebGL.
"use strict";
(function () {
  const canvas = document.getElementById("viewer");
  if (!canvas) return;
  const written = document.getElementById("scenes"); // a page without it gives scenes by showScenes
  let data = written ? JSON.parse(written.textContent) : { faces: "", scenes: [] };
  const pen = canvas.getContext("2d");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  let faces = new Uint16Array(bytes(data.faces));
  const STYLES = { predicted: [11, 111, 184], truth: [150, 156, 165], predictedObject: [209, 73, 91], trueObject: [42, 157, 92] };
  const TOUCHING = [255, 40, 105];
  const shown = { predicted: true, truth: true, predictedObject: true, trueObject: true };
  let scene = null, yaw = 0.5, pitch = -0.3, zoom = 1, waiting = false;

  function load(k) {
    scene = {};
    for (const name of Object.keys(STYLES)) {
      const text = k in data.scenes && data.scenes[k][name], touches = text && data.scenes[k][name + "Touches"];
      scene[name] = text ? new Int16Array(bytes(text)) : null; // tenths of a millimetre from the middle of the true hand
      scene[name + "Touches"] = touches ? new Uint8Array(bytes(touches)) : null;
    }
    document.getElementById("said").textContent = k in data.scenes ? data.scenes[k].title : "";
    for (const button of document.querySelectorAll("[data-scene]")) button.setAttribute("aria-pressed", String(+button.dataset.scene === k));
    draw();
  }

  function turned(points, scale) {
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const out = new Float32Array(points.length);
    for (let i = 0; i < points.length; i += 3) {
      const x = points[i], y = points[i + 1], z = points[i + 2];
      const a = cy * x + sy * z, b = -sy * x + cy * z;
      out[i] = a * scale + canvas.width / 2;
      out[i + 1] = (cp * y - sp * b) * scale + canvas.height / 2;
      out[i + 2] = sp * y + cp * b;
    }
    return out;
  }

  function triangles(name, scale, into) {
    const points = scene[name] && shown[name] ? turned(scene[name], scale) : null, touches = scene[name + "Touches"];
    if (!points) return;
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = points[b] - points[a], uy = points[b + 1] - points[a + 1], vx = points[c] - points[a], vy = points[c + 1] - points[a + 1];
      const uz = (points[b + 2] - points[a + 2]) * scale, vz = (points[c + 2] - points[a + 2]) * scale;
      const n = ux * vy - uy * vx, length = Math.hypot(uy * vz - uz * vy, uz * vx - ux * vz, n) || 1;
      into.push([points[a + 2] + points[b + 2] + points[c + 2], points[a], points[a + 1], points[b], points[b + 1], points[c], points[c + 1], name, Math.abs(n) / length,
        touches && touches[faces[f]] + touches[faces[f + 1]] + touches[faces[f + 2]] > 1]);
    }
  }

  function dots(name, scale, into) {
    const points = scene[name] && shown[name] ? turned(scene[name], scale) : null, touches = scene[name + "Touches"];
    if (points) for (let i = 0; i < points.length; i += 3) into.push([3 * points[i + 2], points[i], points[i + 1], name, touches && touches[i / 3]]);
  }

  function draw() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    pen.clearRect(0, 0, width, height);
    const scale = (Math.min(width, height) / 3200) * zoom; // 32 cm fill the picture
    const pieces = [];
    triangles("truth", scale, pieces);
    triangles("predicted", scale, pieces);
    dots("predictedObject", scale, pieces);
    dots("trueObject", scale, pieces);
    pieces.sort((a, b) => b[0] - a[0]);
    for (const piece of pieces) {
      const flat = piece.length === 5, [r, g, b] = piece[flat ? 4 : 9] ? TOUCHING : STYLES[piece[flat ? 3 : 7]];
      const light = flat ? 1 : 0.55 + 0.45 * piece[8], alpha = flat ? 0.9 : piece[7] === "truth" ? 0.35 : 0.8;
      pen.fillStyle = `rgba(${(r * light) | 0},${(g * light) | 0},${(b * light) | 0},${alpha})`;
      pen.beginPath();
      if (flat) pen.arc(piece[1], piece[2], 1.8 * ratio, 0, 7);
      else { pen.moveTo(piece[1], piece[2]); pen.lineTo(piece[3], piece[4]); pen.lineTo(piece[5], piece[6]); }
      pen.fill();
    }
  }

  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  let last = null;
  canvas.addEventListener("pointerdown", (e) => { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointerup", () => { last = null; });
  canvas.addEventListener("pointermove", (e) => {
    if (!last) return;
    yaw -= (e.clientX - last[0]) * 0.01;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + (e.clientY - last[1]) * 0.01));
    last = [e.clientX, e.clientY];
    later();
  });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom = Math.max(0.3, Math.min(6, zoom * Math.exp(-e.deltaY * 0.001))); later(); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const closer = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 }[e.key];
    if (closer) { e.preventDefault(); zoom = Math.max(0.3, Math.min(6, zoom * closer)); later(); return; }
    const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
    if (!step) return;
    e.preventDefault();
    yaw += step[0];
    pitch = Math.max(-1.5, Math.min(1.5, pitch + step[1]));
    later();
  });
  for (const button of document.querySelectorAll("[data-scene]")) button.addEventListener("click", () => load(+button.dataset.scene));
  for (const box of document.querySelectorAll("[data-part]")) box.addEventListener("change", () => { shown[box.dataset.part] = box.checked; later(); });
  window.addEventListener("resize", later);
  window.showScenes = (next) => { data = next; faces = new Uint16Array(bytes(next.faces)); load(0); };
  load(0);
})();
