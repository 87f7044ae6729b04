// Machines of one manufacturer boot their disk; of the others this plugin has no opinion.
import { type BootRequest, type Decision, decision, hook, pass, setting, value } from './sdk/policy.js';

export const boot = {
  decide: hook((request: BootRequest): Decision => {
    const known = value(request.hardware, 'manufacturer');
    if (known !== setting(request.site, 'manufacturer')) return pass();
    return decision('local-disk', `machines of ${known} boot their disk`);
  }),
};
