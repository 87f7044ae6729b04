// What a PureBoot site policy in JavaScript or TypeScript is written with; policy.d.ts has the types of the contract. Numbers are plain
// numbers, what is not given is null, and an action is { tag, val }.
import { log } from 'pureboot:policy/log@0.1.0';

/** A line for the policy's author. */
export const debug = (message) => log('debug', String(message));
/** A line for the site's operator. */
export const info = (message) => log('info', String(message));
/** A line that somebody should look at. */
export const warn = (message) => log('warn', String(message));

/** What `hook` makes the policy's own failure, in words. */
export class PolicyError extends Error {}

/** A hook whose every exception becomes the policy's own failure, in words: without this an Error ends the call without a text. */
export const hook = (answer) => (...facts) => {
  try {
    return answer(...facts);
  } catch (error) {
    if (error instanceof PolicyError) throw { message: error.message };
    throw { message: error instanceof Error ? `${error.name}: ${error.message}` : String(error) };
  }
};

/** The value of a name in a list of pairs; undefined if there is none. */
export const value = (vars, name) => vars.find(([known]) => known === name)?.[1];

/** A setting of this policy. Every setting that policy.json declares has a value. */
export const setting = (site, name) => {
  const found = value(site.settings, name);
  if (found === undefined) throw new PolicyError(`policy.json declares no setting ${name}`);
  return found;
};

/** A setting that is a whole number. */
export const number = (site, name) => {
  const text = setting(site, name);
  if (!/^[0-9]{1,9}$/.test(text)) throw new PolicyError(`${name} is ${JSON.stringify(text)}, not a number`);
  return Number(text);
};

/** The minute of the day on the site's wall clock, 0 to 1439. */
export const minuteOfDay = (site, now) => {
  const minute = (Math.floor(now / 60) + site.utcOffsetMinutes) % 1440;
  return minute < 0 ? minute + 1440 : minute;
};

/** No opinion. */
export const pass = () => ({ action: { tag: 'pass' }, set: [], reason: null });

/** An action, why, and what the action needs: decision('hold', 'it boots in a loop', 60). */
export const decision = (tag, reason, val) => ({ action: val === undefined ? { tag } : { tag, val }, set: [], reason });
