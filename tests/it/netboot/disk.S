/* A boot sector: what the machine finds on its disk once it is installed. It says so on the first serial port and stops. */

        .code16
        .text
base:   xorw    %ax, %ax
        movw    %ax, %ds
        cld
        movw    $(text - base + 0x7c00), %si
1:      lodsb
        testb   %al, %al
        jz      3f
        movb    %al, %ah
        movw    $0x3fd, %dx
2:      inb     %dx, %al
        testb   $0x20, %al              /* transmitter empty */
        jz      2b
        movb    %ah, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        jmp     1b
3:      hlt
        jmp     3b

text:   .asciz  "\r\ndisk: started\r\n"
        .org    510
        .word   0xaa55
