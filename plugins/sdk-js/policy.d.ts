// The contract pureboot:policy@0.1.0 (wit/since-0.1/policy.wit has what each thing means), and what policy.js adds to it.

/** Name/value pairs. */
export type Vars = [name: string, value: string][];
export type Arch = 'x86-bios' | 'x86-uefi' | 'x64-uefi' | 'arm32-uefi' | 'arm64-uefi' | 'riscv64-uefi' | 'other';

export interface Site {
  id: string;
  settings: Vars;
  /** Seconds since the controller was last reached; null: online. */
  offlineFor: number | null;
  utcOffsetMinutes: number;
}

export interface Node {
  id: string;
  mac: string;
  hostname: string | null;
  /** 'discovered', 'pending', 'installing', 'active' ... */
  state: string;
  workflow: string | null;
  group: string | null;
  tags: string[];
  attributes: Vars;
  /** Seconds since the controller last confirmed this record. */
  age: number;
  stale: boolean;
}

export interface BootRequest {
  mac: string;
  arch: Arch;
  archCode: number | null;
  clientIp: string | null;
  /** 'serial', 'uuid', 'manufacturer', 'product', 'asset' ... */
  hardware: Vars;
  /** null: this site has never seen the machine. */
  node: Node | null;
  site: Site;
  /** Unix seconds. */
  now: number;
  /** Boots of this machine within ten minutes, this one included. */
  attempt: number;
}

export type Action =
  | { tag: 'pass' | 'local-disk' | 'discovery' | 'last-known' }
  | { tag: 'workflow' | 'chain' | 'script' | 'refuse'; val: string }
  | { tag: 'hold'; val: number };

export interface Decision {
  action: Action;
  set: Vars;
  reason: string | null;
}

export type Purpose = 'local-disk' | 'discovery' | 'workflow' | 'chain' | 'policy-script' | 'hold' | 'refuse' | 'other';

export interface Item {
  category: string;
  path: string;
  sizeKib: number | null;
  required: boolean;
  assigned: boolean;
  hits: number;
  /** Seconds since it was last used; null: never. */
  idle: number | null;
}

export interface Context {
  site: Site;
  now: number;
  usedMib: number;
  limitMib: number;
}

export interface Verdict {
  store: boolean;
  /** Seconds, at least 60; null: it does not expire. */
  ttl: number | null;
  pin: boolean;
  /** 0 goes first, 255 last; the built-in policy uses 128. */
  priority: number;
}

/** What `boot`, `script` and `cache` are: a policy exports those that it has. */
export interface Boot {
  decide(request: BootRequest): Decision;
}
export interface Script {
  /** null: the script stays. */
  patch(request: BootRequest, purpose: Purpose, script: string): string | null;
}
export interface Cache {
  /** An answer for each item, in their order; null: no opinion. */
  judge(context: Context, items: Item[]): (Verdict | null)[];
}

export function debug(message: unknown): void;
export function info(message: unknown): void;
export function warn(message: unknown): void;
export class PolicyError extends Error {}
export function hook<Facts extends unknown[], Answer>(answer: (...facts: Facts) => Answer): (...facts: Facts) => Answer;
export function value(vars: Vars, name: string): string | undefined;
export function setting(site: Site, name: string): string;
export function number(site: Site, name: string): number;
export function minuteOfDay(site: Site, now: number): number;
export function pass(): Decision;
export function decision(tag: 'pass' | 'local-disk' | 'discovery' | 'last-known', reason: string): Decision;
export function decision(tag: 'workflow' | 'chain' | 'script' | 'refuse', reason: string, val: string): Decision;
export function decision(tag: 'hold', reason: string, seconds: number): Decision;
