/* A UEFI program for 64-bit ARM (PE32+, UEFI 2.10 §4.1): it says a word on the serial port of QEMU's machine `virt`, a PL011,
   and stops. The word is the last thing in the file, behind a distance that takes a transfer many blocks. */

        .text
base:
        .ascii  "MZ"
        .org    0x3c
        .long   pe - base
pe:     .ascii  "PE\0\0"
        .hword  0xaa64, 1               /* AArch64, one section */
        .long   0, 0, 0
        .hword  sections - optional, 0x206
optional:
        .hword  0x20b, 0
        .long   end - code, 0, 0        /* sizes of code and data */
        .long   code - base, code - base
        .quad   0                       /* image base: anywhere */
        .long   0x200, 0x200            /* alignment in memory and in the file */
        .hword  0, 0, 0, 0, 0, 0
        .long   0
        .long   end - base, code - base /* sizes of image and headers */
        .long   0
        .hword  10, 0                   /* subsystem: EFI application */
        .quad   0, 0, 0, 0
        .long   0, 16
        .fill   16, 8, 0                /* directories, all empty: nothing to relocate */
sections:
        .ascii  ".text\0\0\0"
        .long   end - code, code - base, end - code, code - base
        .long   0, 0
        .hword  0, 0
        .long   0x60000020

        .org    0x200
code:   adr     x1, text
        mov     x2, #0x09000000         /* UARTDR */
1:      ldrb    w0, [x1], #1
        cbz     w0, 3f
2:      ldr     w3, [x2, #0x18]         /* UARTFR */
        tbnz    w3, #5, 2b              /* transmit FIFO full */
        strb    w0, [x2]
        b       1b
3:      wfi
        b       3b

        .org    0x4b000
text:   .asciz  "\r\npayload: nonce=@NONCE@\r\n"
        .org    0x4b200
end:
