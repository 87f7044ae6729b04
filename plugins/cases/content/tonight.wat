;; Pins what workflows of the site's nodes need, and gives up the rest of what the site is not required to hold.
(module
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $len)))
    (local.get $at))
  (func (export "pureboot:policy/cache@0.1.0#judge")
    (param $id i32) (param $id_len i32) (param $settings i32) (param $settings_len i32)
    (param $is_offline i32) (param $offline_for i32) (param $utc_offset i32)
    (param $now i32) (param $used i32) (param $limit i32)
    (param $items i32) (param $items_len i32) (result i32)
    (local $verdict i32) (local $item i32) (local $left i32)
    ;; An item has 40 bytes, with `required` and `assigned` at 24 and 25; an optional verdict has 20, with `store`, `pin` and
    ;; `priority` at 4, 16 and 17.
    (local.set $item (local.get $items))
    (local.set $left (local.get $items_len))
    (local.set $verdict (i32.const 131072))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $left)))
        (i32.store8 (local.get $verdict) (i32.eqz (i32.load8_u offset=24 (local.get $item))))
        (i32.store8 offset=4 (local.get $verdict) (i32.load8_u offset=25 (local.get $item)))
        (i32.store8 offset=16 (local.get $verdict) (i32.load8_u offset=25 (local.get $item)))
        (i32.store8 offset=17 (local.get $verdict) (i32.const 200))
        (local.set $item (i32.add (local.get $item) (i32.const 40)))
        (local.set $verdict (i32.add (local.get $verdict) (i32.const 20)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    (i32.store offset=4 (i32.const 1024) (i32.const 131072))
    (i32.store offset=8 (i32.const 1024) (local.get $items_len))
    (i32.const 1024)))
