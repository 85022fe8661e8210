// The clip: the browser plays the visitor's own file, with sound or picture dropped or swapped.

import { byId, clock, show } from "./dom.js";

const DRIFT = 0.25; // seconds that a swapped sound may be off

export class Player {
  constructor(onmove) {
    this.video = byId("video");
    this.other = new Audio(); // the swapped sound
    this.onmove = onmove;
    const { video, other } = this;
    const play = byId("play");
    const toggle = () => (video.paused ? video.play().catch(() => this.unplayable()) : video.pause());
    play.addEventListener("click", toggle);
    video.addEventListener("click", toggle);
    video.addEventListener("play", () => {
      play.textContent = "Pause";
      if (this.swapped) other.play().catch(() => {});
      this.follow();
    });
    video.addEventListener("pause", () => {
      play.textContent = "Play";
      other.pause();
    });
    video.addEventListener("timeupdate", () => this.update());
    video.addEventListener("seeking", () => this.update());
    video.addEventListener("error", () => video.getAttribute("src") && this.unplayable());
    video.addEventListener("loadedmetadata", () => this.ready());
  }

  // `url` of the file, if the page has it; `pictured`: whether the clip has a picture.
  load({ url, seconds, pictured, stills, name }) {
    Object.assign(this, { seconds, pictured, stills, at: 0, playable: false, name });
    this.effect(null);
    this.video.pause();
    show(this.video, false);
    show(byId("play"), false);
    show(byId("unplayable"), false);
    if (url) this.video.src = url;
    else this.video.removeAttribute("src");
    this.video.load();
    this.picture();
    this.update();
  }

  ready() {
    this.playable = true;
    const seen = this.video.videoWidth > 0;
    show(this.video, seen);
    show(byId("play"), true);
    if (!seen && this.pictured) this.note("Your browser plays only this file's sound. The results are complete all the same.");
    this.picture();
    if (this.at) this.video.currentTime = this.at;
    this.update();
  }

  unplayable() {
    this.playable = false;
    show(this.video, false);
    show(byId("play"), false);
    this.note("Your browser cannot play this file, but the results are complete.");
    this.picture();
  }

  note(text) {
    byId("unplayable").textContent = text;
    show(byId("unplayable"));
  }

  // Where there is no moving picture, the still nearest to the playhead.
  picture() {
    const still = byId("still"), moving = !this.video.hidden;
    const [nearest] = [...this.stills].sort((a, b) => Math.abs(a.second - this.at) - Math.abs(b.second - this.at));
    show(still, !moving && nearest !== undefined);
    if (nearest && still.getAttribute("src") !== nearest.thumbnail) still.src = nearest.thumbnail;
    show(byId("screen"), moving || nearest !== undefined);
  }

  stop() {
    this.video.pause();
  }

  seek(second) {
    this.at = second;
    if (this.playable) {
      this.video.currentTime = Math.min(second, Math.max(0, this.video.duration - 0.01));
      if (this.swapped) this.other.currentTime = second;
    }
    this.update();
  }

  update() {
    if (this.playable && !this.video.seeking) this.at = this.video.currentTime;
    const drifted = Math.abs(this.other.currentTime - this.at) > DRIFT;
    if (this.swapped && !this.video.paused && drifted) this.other.currentTime = this.at;
    byId("time").textContent = `${clock(this.at)} / ${clock(this.seconds)}`;
    if (!this.playable) this.picture();
    this.onmove(this.at);
  }

  // The playhead glides, unless the visitor prefers reduced motion.
  follow() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const glide = () => {
      if (this.video.paused) return;
      this.update();
      requestAnimationFrame(glide);
    };
    requestAnimationFrame(glide);
  }

  // The intervention on the clip: null, or {what, modality, url} with the other sound's url.
  effect(change) {
    const silent = change?.modality === "audio", dark = change?.modality === "video";
    this.video.muted = silent;
    byId("screen").classList.toggle("dark", dark);
    show(byId("curtain"), dark);
    byId("curtain").textContent = dark ? "Without the picture" : "";
    this.swapped = change?.what === "swapped" && Boolean(change.url);
    this.other.pause();
    if (!this.swapped) return;
    this.other.src = change.url;
    this.other.currentTime = this.at;
    if (!this.video.paused) this.other.play().catch(() => {});
  }
}
