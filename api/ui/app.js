// The page: sign in, compose, list. Cards follow their own jobs.
"use strict";

const byId = (id) => document.getElementById(id);
const PAGE = 12;
const FLEET_MS = 5000;
let cards = [];
let cursor = null;

function say(error) {
  byId("refusal").hidden = !error;
  byId("refusal").textContent = error ? error.message : "";
  if (error?.status === 401) signOut(error);
}

function signOut(error) {
  Api.setKey(null);
  cards.forEach((card) => card.remove());
  cards = [];
  byId("fleet").textContent = error ? error.message : "";
  show();
}

function show() {
  const inside = Boolean(Api.key());
  byId("sign-in").hidden = inside;
  byId("compose").hidden = !inside;
  byId("forget").hidden = !inside;
  byId("more").hidden = !inside || cursor === null;
  byId("empty").hidden = !inside || cards.length > 0;
  (inside ? byId("prompt") : byId("key")).focus();
}

async function enter() {
  show();
  if (!Api.key()) return;
  cursor = null;
  await Promise.all([older(), fleet()]);
  show();
}

async function older() {
  try {
    const page = await Api.get(`/v1/jobs?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
    cursor = page.next_cursor;
    page.jobs.filter((job) => !cards.some((card) => card.job.id === job.id)).forEach((job) => add(job, false));
  } catch (error) {
    say(error);
  }
  byId("more").hidden = cursor === null;
}

function add(job, first) {
  const card = new Cards.Card(job, { cancel, pause, retry });
  if (first) {
    cards.unshift(card);
    byId("jobs").prepend(card.node);
  } else {
    cards.push(card);
    byId("jobs").append(card.node);
  }
  byId("empty").hidden = true;
}

const cancel = (card) => act(card, "cancel");
const pause = (card) => act(card, card.job.paused ? "resume" : "pause");

// One at a time: a late answer to the first of two clicks would hide the second.
async function act(card, verb) {
  const buttons = [card.part(".cancel"), card.part(".pause")];
  buttons.forEach((button) => (button.disabled = true));
  try {
    card.update(await Api.post(`/v1/jobs/${card.job.id}/${verb}`));
  } catch (error) {
    if (error.code !== "already_final") say(error);
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

async function retry(card) {
  try {
    add(await Api.post(`/v1/jobs/${card.job.id}/retry`), true);
  } catch (error) {
    say(error);
  }
}

async function fleet() {
  if (!Api.key() || document.hidden) return;
  try {
    const { pools } = await Api.get("/v1/pools");
    const sum = (name) => pools.reduce((total, pool) => total + pool[name], 0);
    const workers = sum("ready_workers");
    byId("fleet").textContent =
      `${workers || "no"} worker${workers === 1 ? "" : "s"} ready · ${sum("running_jobs")} running · ${sum("ready_jobs")} waiting`;
  } catch (error) {
    byId("fleet").textContent = error.message;
    if (error.status === 401) signOut(error);
  }
}

function chosenKind() {
  return document.querySelector("input[name=kind]:checked").value;
}

function showFields() {
  document.querySelectorAll("[data-kinds]").forEach((part) => {
    part.hidden = !part.dataset.kinds.split(" ").includes(chosenKind());
  });
}

async function input(kind) {
  const whole = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  if (kind === "classify") {
    const file = byId("picture").files[0];
    if (!file) throw new Error("Choose a picture first.");
    const labels = byId("labels").value.split(",").map((label) => label.trim()).filter(Boolean);
    return { images: [await Api.upload(file)], labels };
  }
  const prompt = byId("prompt").value.trim();
  const varied = kind === "unclip" && byId("varied").files[0];
  if (!prompt && !varied) throw new Error("Say what to make.");
  if (kind === "vqgan_clip") return { prompts: prompt, iterations: whole("iterations"), seed: whole("seed") };
  const drawn = { prompts: prompt ? [prompt] : undefined, n: whole("n"), keep: whole("keep"), seed: whole("seed") };
  return varied ? { ...drawn, image: await Api.upload(varied) } : drawn;
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  Api.setKey(byId("key").value.trim());
  byId("key").value = "";
  enter();
});

byId("compose").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("compose").querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const kind = chosenKind();
    add(await Api.post("/v1/jobs", { kind, input: await input(kind) }), true);
    say(null);
    fleet();
  } catch (error) {
    say(error);
  } finally {
    button.disabled = false;
  }
});

byId("kinds").addEventListener("change", showFields);
byId("more").addEventListener("click", older);
byId("forget").addEventListener("click", () => signOut(null));
setInterval(fleet, FLEET_MS);
showFields();
enter();
