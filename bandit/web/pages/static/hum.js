// The sound of a clip, if anybody wants it: a soft chord that follows from its name. Nothing is loaded.

let audio = null;
let playing = [];

export function silence() {
  for (const { tone, volume } of playing) {
    volume.gain.setTargetAtTime(0, audio.currentTime, 0.15);
    tone.stop(audio.currentTime + 0.8);
  }
  playing = [];
}

export function hum(name) {
  audio ??= new AudioContext();
  silence();
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.charCodeAt(0)) % 997;
  const base = 110 * 2 ** ((sum % 12) / 12);
  playing = [1, [1.2, 1.25][sum % 2], 1.5, 2].map((ratio, i) => {
    const tone = audio.createOscillator(), volume = audio.createGain();
    tone.type = i % 2 ? "triangle" : "sine";
    tone.frequency.value = base * ratio;
    volume.gain.value = 0;
    volume.gain.setTargetAtTime(0.035, audio.currentTime, 0.4);
    tone.connect(volume).connect(audio.destination);
    tone.start();
    return { tone, volume };
  });
}
