# PureBoot on OpenWrt with odhcpd: odhcpd cannot name a loader over IPv4 (its boot6 is for IPv6).
# Either run the agent on another host of the network with [dhcp] enabled, and change nothing here,
# or let dnsmasq lease the IPv4 addresses and name the loader; as root on the router:
uci set dhcp.odhcpd.maindhcp='0'
uci set dhcp.@dnsmasq[0].confdir='/etc/dnsmasq.d'
uci commit dhcp
mkdir -p /etc/dnsmasq.d
cat > /etc/dnsmasq.d/pureboot.conf <<'EOF'
# PureBoot: dnsmasq names the loader, the agent at 10.9.0.2 serves it. IPv4 only.
# For a file of its own, such as /etc/dnsmasq.d/pureboot.conf.

# iPXE loads its script; option 176 saves it the wait for a ProxyDHCP server.
dhcp-match=set:pureboot-ipxe,175
dhcp-userclass=set:pureboot-ipxe,iPXE
dhcp-boot=tag:pureboot-ipxe,http://10.9.0.2:8080/boot.ipxe,,10.9.0.2
dhcp-option-force=tag:pureboot-ipxe,encap:175,176,1b

# A Raspberry Pi says that it is a PC and looks for its name in option 43.
dhcp-mac=set:pureboot-pi,b8:27:eb:*:*:*
dhcp-mac=set:pureboot-pi,dc:a6:32:*:*:*
dhcp-mac=set:pureboot-pi,e4:5f:01:*:*:*
dhcp-mac=set:pureboot-pi,d8:3a:dd:*:*:*
dhcp-mac=set:pureboot-pi,2c:cf:67:*:*:*
dhcp-mac=set:pureboot-pi,28:cd:c1:*:*:*
dhcp-match=set:pureboot-pc,option:client-arch,0
dhcp-option-force=tag:pureboot-pi,tag:pureboot-pc,43,06:01:03:0a:04:00:50:58:45:09:14:00:00:11:52:61:73:70:62:65:72:72:79:20:50:69:20:42:6f:6f:74:ff
dhcp-boot=tag:!pureboot-ipxe,tag:pureboot-pi,tag:pureboot-pc,bootcode.bin,,10.9.0.2

# Firmware, by its architecture; what is not named here boots its disk.
dhcp-match=set:pureboot-bios,option:client-arch,0
dhcp-boot=tag:!pureboot-ipxe,tag:!pureboot-pi,tag:pureboot-bios,undionly.kpxe,,10.9.0.2
dhcp-match=set:pureboot-x64,option:client-arch,7
dhcp-match=set:pureboot-x64,option:client-arch,9
dhcp-boot=tag:!pureboot-ipxe,tag:pureboot-x64,snponly-x64.efi,,10.9.0.2
dhcp-match=set:pureboot-x64-http,option:client-arch,16
dhcp-match=set:pureboot-x64-http,option:client-arch,17
dhcp-boot=tag:!pureboot-ipxe,tag:pureboot-x64-http,http://10.9.0.2:8080/files/bootloaders/snponly-x64.efi,,10.9.0.2
dhcp-option-force=tag:pureboot-x64-http,60,HTTPClient
dhcp-match=set:pureboot-bios-http,option:client-arch,20
dhcp-boot=tag:!pureboot-ipxe,tag:!pureboot-pi,tag:pureboot-bios-http,http://10.9.0.2:8080/files/bootloaders/undionly.kpxe,,10.9.0.2
dhcp-option-force=tag:pureboot-bios-http,60,HTTPClient
dhcp-match=set:pureboot-raspberry-pi,option:client-arch,41
dhcp-boot=tag:!pureboot-ipxe,tag:pureboot-raspberry-pi,bootcode.bin,,10.9.0.2
dhcp-option-force=tag:pureboot-raspberry-pi,43,06:01:03:0a:04:00:50:58:45:09:14:00:00:11:52:61:73:70:62:65:72:72:79:20:50:69:20:42:6f:6f:74:ff
EOF
/etc/init.d/odhcpd restart
/etc/init.d/dnsmasq restart
# The agent's address 10.9.0.2 must stay the same.
