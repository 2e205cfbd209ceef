// A round trip by Azure Personalizer's official client, unchanged: node client.mjs URL. What came back, as JSON.
import personalizer from "@azure/cognitiveservices-personalizer";
import { ApiKeyCredentials } from "@azure/ms-rest-js";

const key = new ApiKeyCredentials({ inHeader: { "Ocp-Apim-Subscription-Key": process.argv[3] ?? "a key of old" } });
const client = new personalizer.PersonalizerClient(key, process.argv[2]);
const actions = [
  { id: "pasta", features: [{ taste: "salty", spice: "medium" }, { nutrition: { level: 5 } }] },
  { id: "ice cream", features: [{ taste: "sweet", spice: "none" }, { nutrition: { level: 2 } }] },
  { id: "juice", features: [{ taste: "sweet", spice: "none" }, { drink: true }] },
];
const contextFeatures = [{ timeOfDay: "morning" }, { user: { likes: ["sweet", "cold"], age: 41 } }];

async function refused(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { status: error.statusCode, code: error.body?.error?.code, message: error.body?.error?.message };
  }
}

const ranked = await client.rank({ contextFeatures, actions, eventId: "js-1" });
const again = await client.rank({ contextFeatures, actions, eventId: "js-1" });
const rewarded = await client.events.reward("js-1", { value: 0.25 });
const excluded = await client.rank({ actions, excludedActions: ["pasta", "juice"] });
await client.rank({ actions, eventId: "js-deferred", deferActivation: true });
const activated = await client.events.activate("js-deferred");
await client.events.reward("js-deferred", { value: 1 });

console.log(
  JSON.stringify({
    ranked: { ranking: ranked.ranking, eventId: ranked.eventId, rewardActionId: ranked.rewardActionId },
    rankedStatus: ranked._response.status,
    again: again.ranking,
    rewarded: rewarded._response.status,
    activated: activated._response.status,
    excluded: { ranking: excluded.ranking, rewardActionId: excluded.rewardActionId },
    empty: await refused(() => client.rank({ actions: [] })),
    conflict: await refused(() => client.rank({ actions: actions.slice(1), eventId: "js-1" })),
    unlearnable: await refused(() => client.rank({ actions: [{ id: "a", features: ["text"] }] })),
    tooMuch: await refused(() => client.events.reward("js-1", { value: 1e9 })),
  }),
);
