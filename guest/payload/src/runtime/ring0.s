# Everything that runs in ring 0, and nothing else does.
#
# Plain integer instructions only: where ring 0 is emulated (a software KVM) the emulator knows no SSE
# and some two million instructions a second are all there is. Each piece is a few instructions long
# and goes back to ring 3, where all tests run natively.
#
# A CPU's block (16 KiB, aligned; see `runtime::block::Block`) is found from its ring-0 stack pointer,
# so FS, GS and every other register stay free for the tests.

.set BLOCK_BYTES,     16384
.set EXCEPTION,       2048          # vector, error, rip, cs, rsp, cr2: six words
.set GDT,             4096
.set TSS,             4096 + 64
.set GDTR,            4096 + 192
.set USER_STACK,      4096 + 256
.set ENTRY,           4096 + 264
.set BOOT_PARAMS,     4096 + 272

.set ASYNC_FLAGS,     4096 + 320    # what KVM writes (64 bytes), then what we remember
.set ASYNC_TOKEN,     4096 + 324
.set ASYNC_WAITING,   4096 + 384
.set ASYNC_ABSENT,    4096 + 392
.set ASYNC_WOKEN_ALL, 4096 + 400
.set ASYNC_VECTOR,    0x2e          # as in `runtime::interrupts`
.set ASYNC_ACK,       0x4b564d07

.set KERNEL_CODE,     0x08
.set USER_DATA,       0x1b
.set USER_CODE,       0x23
.set TSS_SELECTOR,    0x28
.set RING3_FLAGS,     0x202         # IF

.set APIC_BASE,       0x1b
.set X2APIC_ID,       0x802
.set X2APIC_EOI,      0x80b
.set X2APIC_SVR,      0x80f

.section .ring0, "awx", @progbits
.code64

# Boot CPU, 64-bit long mode, first 4 GiB identity-mapped, RSI = Linux zero page.
.global _start
_start:
    cli
    lea rbx, [rip + boot_block]
    mov [rbx + BOOT_PARAMS], rsi
    lea rax, [rip + boot_stack_top]
    mov [rbx + USER_STACK], rax
    lea rax, [rip + boot_main]
    mov [rbx + ENTRY], rax

# RBX = block of this CPU with USER_STACK and ENTRY filled in. Goes to ring 3.
enter:
    lea rsp, [rbx + BLOCK_BYTES]
    lea rax, [rip + pml4]
    mov cr3, rax
    mov rax, cr0
    and eax, 0x9ffffff3             # caches on; FPU neither emulated nor switched lazily
    or eax, 0x22
    mov cr0, rax
    mov rax, cr4
    or eax, 0x600                   # SSE for ring 3
    mov cr4, rax

    # GDT: null, ring-0 code, ring-0 data, ring-3 data, ring-3 code, TSS; accessed bits preset.
    lea rdi, [rbx + GDT]
    mov qword ptr [rdi], 0
    mov rax, 0x00af9b000000ffff
    mov [rdi + 8], rax
    mov rax, 0x00cf93000000ffff
    mov [rdi + 16], rax
    mov rax, 0x00cff3000000ffff
    mov [rdi + 24], rax
    mov rax, 0x00affb000000ffff
    mov [rdi + 32], rax
    lea rdx, [rbx + TSS]            # below 4 GiB: the upper half of the descriptor is zero
    mov eax, edx
    shl eax, 16
    or eax, 0x67
    mov [rdi + 40], eax
    mov eax, edx
    shr eax, 16
    and eax, 0xff
    or eax, 0x8900
    and edx, 0xff000000
    or eax, edx
    mov [rdi + 44], eax
    mov qword ptr [rdi + 48], 0
    mov word ptr [rbx + GDTR], 55
    mov [rbx + GDTR + 2], rdi
    lea rax, [rbx + BLOCK_BYTES]
    mov [rbx + TSS + 4], rax        # RSP0
    mov word ptr [rbx + TSS + 102], 104
    lgdt [rbx + GDTR]
    lidt [rip + idt_pointer]
    mov ax, TSS_SELECTOR
    ltr ax

    mov ecx, APIC_BASE
    rdmsr
    or eax, 0xc00                   # x2APIC
    wrmsr
    mov ecx, X2APIC_SVR
    mov eax, 0x1ff
    xor edx, edx
    wrmsr

    mov eax, USER_DATA
    mov ds, ax
    mov es, ax
    push USER_DATA
    mov rax, [rbx + USER_STACK]
    push rax
    push RING3_FLAGS
    push USER_CODE
    mov rax, [rbx + ENTRY]
    push rax
    mov rdi, rbx
    xor ebp, ebp
    iretq

# ---- gates: R11 = GATE_MAGIC + which one, then `ud2` from ring 3; interrupts off. Why `ud2`: a KVM that emulates
#      ring 0 emulates neither `int n` nor ring-3 port access, but it does reflect exceptions; and a fault, unlike the trap
#      of `int3`, is in the state that KVM_GET_VCPU_EVENTS gives when the CPU is moved just then. ----
.set GATES, 13
.set GATE_MAGIC, 0x7e55e700
gate_entry:                         # stack: rip, cs, rflags, rsp, ss
    sub r11, GATE_MAGIC
    cmp r11, GATES
    jae 1f
    add qword ptr [rsp], 2          # past the `ud2`
    push rax
    lea rax, [rip + gate_table]
    mov r11, [rax + r11 * 8]
    pop rax
    jmp r11
1:  push 0                          # an invalid instruction that is no gate
    push 6
    jmp exception_common

.balign 8
gate_table:
    .quad gate_wrmsr, gate_rdmsr, gate_wait, gate_invlpg, gate_xsetbv, gate_print, gate_out
    .quad gate_cpuid, gate_set_cr2, gate_get_cr2, gate_set_dr0, gate_get_dr0, gate_in

gate_wrmsr:                         # ECX = register, EDX:EAX = value
    wrmsr
    iretq

gate_rdmsr:                         # ECX = register -> EDX:EAX
    rdmsr
    iretq

gate_wait:                          # halts unless [RDI] != RSI already
    cmp [rdi], rsi
    jne 1f
    sti
    hlt
    cli
1:  iretq

gate_invlpg:                        # RDI = address
    invlpg [rdi]
    iretq

gate_xsetbv:                        # ECX = 0, EDX:EAX = XCR0; turns on CR4.OSXSAVE first
    push rax
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    pop rax
    xsetbv
    iretq

gate_print:                         # DX = port, RSI = text, RCX = bytes, at least one
1:  mov al, [rsi]
    out dx, al
    inc rsi
    dec rcx
    jnz 1b
    iretq

gate_out:                           # DX = port, EAX = value
    out dx, eax
    iretq

gate_in:                            # DX = port -> EAX
    in eax, dx
    iretq

gate_cpuid:                         # as the instruction; R8 = its RBX
    push rbx
    cpuid
    mov r8, rbx
    pop rbx
    iretq

gate_set_cr2:                       # RDI = value; CR2 only remembers
    mov cr2, rdi
    iretq

gate_get_cr2:                       # -> RAX
    mov rax, cr2
    iretq

gate_set_dr0:                       # RDI = value; no breakpoint is enabled
    mov dr0, rdi
    iretq

gate_get_dr0:                       # -> RAX
    mov rax, dr0
    iretq

# ---- interrupts: count in the block, EOI ----
interrupt_common:                   # RAX saved, EAX = vector
    push rcx
    push rdx
    mov rcx, rsp
    and rcx, -BLOCK_BYTES
    inc qword ptr [rcx + rax * 8]
    mov ecx, X2APIC_EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

nmi_entry:
    push rcx
    mov rcx, rsp
    and rcx, -BLOCK_BYTES
    inc qword ptr [rcx + 2 * 8]
    pop rcx
    iretq

# ---- asynchronous page faults: KVM says that the page of a ring-3 access is not there. The CPU halts, interrupts on, until
#      the token has come. Nothing else wakes it: a token that is lost is a hang. ----
page_fault_entry:                   # stack: error, rip, cs, rflags, rsp, ss
    push rax
    push rbx
    mov rbx, rsp
    and rbx, -BLOCK_BYTES
    cmp dword ptr [rbx + ASYNC_FLAGS], 1
    jne 2f
    mov dword ptr [rbx + ASYNC_FLAGS], 0
    mov rax, cr2
    mov [rbx + ASYNC_WAITING], rax
    inc qword ptr [rbx + ASYNC_ABSENT]
1:  sti
    hlt
    cli
    cmp qword ptr [rbx + ASYNC_WAITING], 0
    jne 1b
    pop rbx
    pop rax
    add rsp, 8
    iretq
2:  pop rbx
    pop rax
    push 14
    jmp exception_common

async_ready:                        # RAX saved, EAX = vector
    push rcx
    push rdx
    push rbx
    mov rbx, rsp
    and rbx, -BLOCK_BYTES
    inc qword ptr [rbx + rax * 8]
    mov eax, [rbx + ASYNC_TOKEN]
    cmp eax, -1
    jne 1f
    inc qword ptr [rbx + ASYNC_WOKEN_ALL]
    jmp 2f
1:  cmp rax, [rbx + ASYNC_WAITING]
    jne 3f                          # of a wait that is over
2:  mov qword ptr [rbx + ASYNC_WAITING], 0
3:  mov dword ptr [rbx + ASYNC_TOKEN], 0
    mov ecx, ASYNC_ACK
    mov eax, 1
    xor edx, edx
    wrmsr
    mov ecx, X2APIC_EOI
    xor eax, eax
    wrmsr
    pop rbx
    pop rdx
    pop rcx
    pop rax
    iretq

# ---- exceptions: record, then let ring 3 say so ----
exception_common:                   # stack: vector, error, rip, cs, rflags, rsp, ss
    mov rbx, rsp
    and rbx, -BLOCK_BYTES
    pop rax
    mov [rbx + EXCEPTION], rax
    pop rax
    mov [rbx + EXCEPTION + 8], rax
    pop rax
    mov [rbx + EXCEPTION + 16], rax
    pop rcx
    mov [rbx + EXCEPTION + 24], rcx
    pop rax
    pop rax
    mov [rbx + EXCEPTION + 32], rax
    mov rdx, cr2
    mov [rbx + EXCEPTION + 40], rdx
    test ecx, 3
    jnz 1f
    mov rax, [rbx + USER_STACK]     # was in ring 0: the ring-3 stack is where it was left, start it anew
1:  sub rax, 512                    # past the red zone
    and rax, -16
    sub rax, 8
    lea rsp, [rbx + BLOCK_BYTES]
    push USER_DATA
    push rax
    push 2
    push USER_CODE
    lea rax, [rip + exception_main]
    push rax
    mov rdi, rbx
    iretq

# ---- one 16-byte stub a vector ----
.balign 16
.global vector_stubs
vector_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if vector == 2
        jmp nmi_entry
    .elseif vector == 6
        jmp gate_entry
    .elseif vector == 14
        jmp page_fault_entry
    .elseif vector == ASYNC_VECTOR
        push rax
        mov eax, vector
        jmp async_ready
    .elseif vector == 8 || (vector >= 10 && vector <= 13) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        push vector
        jmp exception_common
    .elseif vector < 32
        push 0
        push vector
        jmp exception_common
    .else
        push rax
        mov eax, vector
        jmp interrupt_common
    .endif
    .set vector, vector + 1
.endr

# ---- AP trampoline: copied to a page below 1 MiB, entered by SIPI in real mode with CS = page ----
.balign 16
.global trampoline_start
.global trampoline_end
.code16
trampoline_start:
    cli
    mov ax, cs
    mov ds, ax
    .byte 0x0f, 0x01, 0x16          # lgdt [trampoline_gdtr - trampoline_start]
    .word trampoline_gdtr - trampoline_start
    mov eax, 0x620                  # PAE, SSE
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER.LME
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x80000033             # straight from real to long mode: PG, NE, ET, MP, PE
    mov cr0, eax
    .byte 0x66, 0xea                # far jump, 32-bit offset
    .long ap_long_mode
    .word KERNEL_CODE
.balign 8
trampoline_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
trampoline_gdtr:
    .word 23
    .long trampoline_gdt - trampoline_start + TRAMPOLINE_PAGE
trampoline_end:

.code64
ap_long_mode:
    mov eax, 0x10
    mov ss, ax
    mov ds, ax
    mov ecx, APIC_BASE
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, X2APIC_ID
    rdmsr
    lea rsi, [rip + ap_table]       # pairs: APIC id, block; ended by a zero block
1:  mov rbx, [rsi + 8]
    test rbx, rbx
    jz 2f
    cmp [rsi], rax
    je enter
    add rsi, 16
    jmp 1b
2:  cli                             # a CPU that nobody expects
    hlt
    jmp 2b

# ---- page tables: the first 4 GiB, 2 MiB pages, ring 3 may do everything, A and D preset so that no
#      table page is ever written by a page walk ----
.section .tables, "aw", @progbits
.balign 4096
.global pml4
pml4:
    .quad pdpt + 0x67
    .fill 511, 8, 0
.global pdpt
pdpt:
    .quad pd + 0x67, pd + 0x1067, pd + 0x2067, pd + 0x3067
    .fill 508, 8, 0
.global pd
pd:
.set frame, 0
.rept 2048
    .quad frame * 0x200000 + 0xe7
    .set frame, frame + 1
.endr
.global idt
.balign 4096
idt:
    .fill 512, 8, 0
idt_pointer:
    .word 4095
    .quad idt

# ---- the boot CPU's block and stack, the table of APs ----
.section .blocks, "aw", @nobits
.balign 16384
.global boot_block
boot_block:
    .skip 16384
    .skip 65536 - 8
boot_stack_top:
    .skip 8
.balign 4096
.global ap_table
ap_table:
    .skip 16 * 257
.balign 4096
