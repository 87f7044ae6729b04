// examples/reboot-loop in JavaScript: a machine that boots again and again has to wait, and at last is not served.
import { decision, hook, number, pass, setting, warn } from './sdk/policy.js';

export const boot = {
  decide: hook((request) => {
    const { attempt, node, site } = request;
    const tag = setting(site, 'released-by-tag');
    if (node?.tags.includes(tag) || attempt <= number(site, 'slow-after')) return pass();
    if (attempt <= number(site, 'stop-after')) {
      return decision('hold', `boot ${attempt} within ten minutes`, number(site, 'wait-seconds'));
    }
    warn(`${request.mac} boots in a loop: ${attempt} times within ten minutes`);
    const text = `boot ${attempt} within ten minutes: tag it ${tag} to let it go on`;
    return decision('refuse', text, text);
  }),
};
