// One card per job. All text goes in by textContent; nothing of a job is ever read as HTML.
"use strict";

const Cards = (() => {
  const FINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "–");

  function title(job) {
    const input = job.input;
    if (input.labels) return `Which of ${input.labels.slice(0, 8).join(", ")}?`;
    const prompts = (input.prompts || [input.prompt]).filter(Boolean);
    return prompts.map((prompt) => prompt.text ?? prompt.image ?? prompt).join(" · ") || job.kind;
  }

  class Card {
    constructor(job, actions) {
      this.node = document.getElementById("card").content.firstElementChild.cloneNode(true);
      this.part = (selector) => this.node.querySelector(selector);
      this.node.dataset.id = job.id;
      this.abort = new AbortController();
      this.part(".cancel").addEventListener("click", () => actions.cancel(this));
      this.part(".pause").addEventListener("click", () => actions.pause(this));
      this.part(".retry").addEventListener("click", () => actions.retry(this));
      this.update(job);
      if (!FINAL.has(job.state)) this.follow();
    }

    async follow() {
      await Api.follow(this.job.id, (type, data) => this.event(type, data), this.abort.signal);
      if (!this.abort.signal.aborted) this.update(await Api.get(`/v1/jobs/${this.job.id}`));
    }

    event(type, data) {
      if (type === "finished") return;
      const job = { ...this.job, state: data.state || this.job.state };
      if (type === "progress" || type === "preview") job.progress = { ...job.progress, ...data };
      if (type === "queued") job.progress = {};
      if (type === "cancelling") job.cancel_requested = true;
      if (type === "paused" || type === "resumed") job.paused = type === "paused";
      this.update(job);
    }

    update(job) {
      this.job = job;
      const final = FINAL.has(job.state);
      this.part(".state").textContent = final ? job.state : this.shownState(job);
      this.part(".state").className = `state ${job.state}`;
      this.part("h2").textContent = title(job);
      this.part(".cancel").hidden = final || job.cancel_requested;
      this.part(".pause").hidden = final || job.cancel_requested;
      this.part(".pause").textContent = job.paused ? "Resume" : "Pause";
      this.part(".retry").hidden = !final;
      this.showRun(job, final);
      this.showError(job);
      if (final) this.showResult(job);
      else if (job.progress?.preview_url) this.showPreview(job.progress.preview_url);
      this.part(".facts").textContent = this.facts(job);
    }

    shownState(job) {
      if (job.cancel_requested) return "stopping";
      if (job.paused) return job.state === "queued" ? "paused" : "pausing";
      return job.state;
    }

    showRun(job, final) {
      this.part(".run").hidden = final;
      const { fraction, stage, step, total } = job.progress || {};
      const bar = this.part("progress");
      if (typeof fraction === "number") bar.value = fraction;
      else bar.removeAttribute("value");
      const place = job.position ? `${job.position} before it` : "";
      this.part(".stage").textContent = [stage || (job.paused ? "" : job.state === "queued" ? "waiting" : "starting"),
        total ? `${step}/${total}` : "", place].filter(Boolean).join(" ");
    }

    showError(job) {
      const line = this.part(".error");
      line.hidden = !job.error || job.state === "succeeded";
      line.textContent = job.error ? job.error.message : "";
    }

    async showPreview(url) {
      if (this.previewed === url) return;
      this.previewed = url;
      const shown = await Api.picture(url).catch(() => null);
      if (!shown || FINAL.has(this.job.state)) return;
      const box = this.part(".pictures");
      const figure = box.firstElementChild || box.appendChild(make("figure"));
      const image = figure.querySelector("img") || figure.appendChild(make("img"));
      URL.revokeObjectURL(image.src);
      image.src = shown;
      image.alt = "preview";
    }

    showResult(job) {
      if (this.resulted) return;
      this.resulted = true;
      const box = this.part(".pictures");
      box.replaceChildren();
      const images = job.result?.images || [];
      images.forEach((image, index) => box.append(this.figure(image, index + 1)));
      for (const item of job.result?.classifications || []) box.append(this.labels(item));
    }

    figure(image, rank) {
      const figure = make("figure");
      const picture = make("img");
      picture.alt = image.prompt ? `${image.prompt}, rank ${rank}` : image.name;
      figure.append(picture);
      const caption = make("figcaption");
      caption.append(make("b", "", `#${rank}`), ` score ${number(image.score)}`, make("br"), `seed ${image.seed ?? "–"}`);
      if (typeof image.index === "number") caption.append(`, no. ${image.index}`);
      figure.append(caption);
      Api.picture(image.url).then((url) => (picture.src = url)).catch(() => picture.replaceWith(make("div", "blank")));
      return figure;
    }

    // One picture's labels, best first.
    labels(item) {
      const list = make("ul", "labels");
      for (const { label, probability } of item.labels) {
        const line = make("li");
        const meter = make("meter");
        meter.value = probability ?? 0;
        line.append(meter, `${label} `, make("b", "", number(probability, 2)));
        list.append(line);
      }
      return list;
    }

    facts(job) {
      const took = job.started_at && job.finished_at ? (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000 : null;
      return [job.kind, new Date(job.created_at).toLocaleString(), took === null ? "" : `${took.toFixed(1)} s`,
        job.attempt > 1 ? `attempt ${job.attempt}` : "", job.worker || "", job.id].filter(Boolean).join(" · ");
    }

    remove() {
      this.abort.abort();
      this.node.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
      this.node.remove();
    }
  }

  return { Card };
})();
