// Features and numbers, in words for people.

const LANGUAGES = { en: "English", es: "Spanish", fr: "French", no: "Norwegian" };

export const language = (code) => LANGUAGES[code] ?? code;
export const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
export const percent = (x) => `${(100 * x).toFixed(x >= 0.0995 ? 0 : x >= 0.00995 ? 1 : 2)} %`;
export const seconds = (x) => `${x.toFixed(x < 10 ? 1 : 0)} s`;
const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

// What a feature is about; the first that fits. Those about the same are one reason.
const KINDS = [
  [/^D\.(taste|lately)_tags/, (clip) => `How you take ${list(clip.tags)}`],
  [/^D\.(taste|lately)_creator/, (clip) => `How you take clips by ${clip.creator}`],
  [/^D\.taste_sound/, (clip) => `How you take the sound “${clip.sound}”`],
  [/^D\.taste_language/, (clip) => `How you take clips in ${language(clip.language)}`],
  [/^D\.taste_length/, () => "How you take clips of this length"],
  [/^D\.interest/, () => "What you picked at sign-up"],
  [/^D\.(item_reward|item_completion|item_negative)/, () => "How everybody took this clip"],
  [/^D\.(item_cold|item_new|item_offered|cold_offered)/, () => "How new and untried it is"],
  [/^D\.(tags_reward|cold_tags)/, (clip) => `How everybody takes ${list(clip.tags)}`],
  [/^D\.(creator_reward|cold_creator)/, (clip) => `How everybody takes ${clip.creator}`],
  [/^I\.(.*\.)?tags/, (clip) => `What it learned of ${list(clip.tags)} in general`],
  [/^I\.(.*\.)?creator/, (clip) => `What it learned of ${clip.creator} in general`],
  [/^I\.(.*\.)?sound/, (clip) => `What it learned of the sound “${clip.sound}”`],
  [/^I\.(.*\.)?language/, (clip) => `What it learned of clips in ${language(clip.language)}`],
  [/^I\.(.*\.)?length_s/, () => "What it learned of this length"],
  [/^\(/, () => "What any clip earns with you, now"],
  [/^I\./, () => "What it learned of this very clip"],
];

/** The parts of a score as reasons, the strongest first: [{text, value}]. */
export function reasons(features, clip) {
  const sums = new Map();
  for (const [name, value] of features) {
    const kind = KINDS.find(([pattern]) => pattern.test(name));
    const text = kind ? kind[1](clip) : name;
    sums.set(text, (sums.get(text) ?? 0) + value);
  }
  return [...sums].map(([text, value]) => ({ text, value })).filter((one) => Math.abs(one.value) >= 0.005)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
}

/** What somebody did with a clip. */
export function deed({ watched, length, liked, shared, followed, refused }) {
  const done = [watched >= length * 1.9 ? `watched it ${Math.floor(watched / length)} times`
    : watched >= length * 0.98 ? "watched it to the end" : `watched ${seconds(watched)} of ${seconds(length)}`];
  if (liked) done.push("liked it");
  if (shared) done.push("shared it");
  if (followed) done.push("followed its creator");
  if (refused) done.push("did not want it");
  return `You ${list(done)}.`;
}
